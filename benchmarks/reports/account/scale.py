"""The cases and providers of the account, in full size on a GPU and tiny in a dry run on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from convnextv2_fast.bench import peers

from ...rivals.sizes import SIZES
from ...suite import providers
from ...suite.cases import Setting
from ...suite.module_cases import FcmaeCase, ModelCase
from ...suite.problems import Shape
from .context import Context

SIZE = "tiny"


@dataclass(frozen=True)
class Subject:
    """A whole model's case, small enough to be handed to another process: kind "inference", "training" or
    "pretraining"."""

    kind: str
    batch: int
    dry: bool

    @property
    def precision(self) -> str:
        if self.dry:
            return "float32"
        return "bfloat16" if self.kind == "inference" else "amp"

    def case(self) -> ModelCase | FcmaeCase:
        setting = Setting("cpu" if self.dry else "cuda", self.precision, self.dry)
        if self.kind == "pretraining":
            return FcmaeCase("atto" if self.dry else SIZE, self.batch, setting, resolution=64 if self.dry else 224)
        backward = self.kind == "training"
        if self.dry:
            return ModelCase("atto", self.batch, setting, backward, resolution=32, classes=10)
        return ModelCase(SIZE, self.batch, setting, backward)


BATCHES = {"inference": (128, 256, 1), "training": (64, 256), "pretraining": (64, 128)}  # the first is profiled
DRY_BATCHES = {"inference": (2, 1), "training": (2,), "pretraining": (2,)}


def batches(kind: str, dry: bool) -> tuple[int, ...]:
    return (DRY_BATCHES if dry else BATCHES)[kind]


def rival() -> str:
    """Whose dense model stands for the peers: timm's; where it is not installed, upstream's code."""
    return "timm" if peers.installed("timm") and peers.installed("torchvision") else "upstream"


def ids(kind: str, dry: bool) -> tuple[str, ...]:
    """The providers that are compared, by their ids in :mod:`benchmarks.suite.providers`; "fast-graph" is "fast"
    captured in a CUDA graph."""
    wanted = account_ids(kind, rival())
    if dry:
        return ("fast", "fast-compile") if kind == "inference" else ("fast", wanted[-2])
    return wanted


def account_ids(kind: str, rival: str) -> tuple[str, ...]:
    """The same, in full, of this rival."""
    compiled, tuned = ("compile", "max-autotune") if rival == "upstream" else ("timm-compile", "timm-max-autotune")
    if kind == "pretraining":
        compiled, tuned = "masked-dense-compile", "masked-dense-max-autotune"
    frozen = ("fast-frozen",) if kind == "inference" else ()
    return ("fast", "fast-graph", *frozen, "fast-compile", "fast-reduce-overhead", compiled, tuned)


def compiled(name: str) -> bool:
    """Whether torch.compile has work to do for this provider."""
    return "compile" in name or "autotune" in name or "reduce-overhead" in name


def prepare_process(context: Context) -> None:
    """Settings of a process that measures."""
    torch.backends.cudnn.benchmark = True  # cuDNN chooses by trial: the peers at their best
    if context.dry:
        torch.set_num_threads(1)  # on a busy machine threads wait for each other
        providers.compile_backend = "eager" if context.part == "compile" else ""


def stages(context: Context) -> list[tuple[int, int]]:
    """Side and channels of the model's four stages; one small one in a dry run."""
    return [(7, 8)] if context.dry else [(56 >> i, dim) for i, dim in enumerate(SIZES[SIZE][1])]


def op_shapes(op: str, context: Context, batch: int) -> Iterator[Shape]:
    """The shapes that an op has in the model."""
    if op != "patch_conv":
        for side, c in stages(context):
            yield Shape(batch, side, side, c)
        return
    if context.dry:
        yield Shape(batch, 8, 8, 3, 8, 4)
        return
    yield Shape(batch, 224, 224, 3, 96, 4)
    for (side, c), (_, wider) in zip(stages(context), stages(context)[1:], strict=False):
        yield Shape(batch, side, side, c, wider, 2)


def checked_shapes(op: str, dry: bool) -> list[Shape]:
    """Six shapes that an op is checked at: odd sides, channels off every vector's length, one site, the model's own."""
    if op == "patch_conv":
        found = [
            Shape(2, 9, 8, 3, 8, 4),
            Shape(1, 5, 7, 40, 24, 2),
            Shape(3, 6, 6, 48, 96, 2),
            Shape(2, 32, 20, 3, 96, 4),
            Shape(4, 14, 14, 384, 768, 2),
            Shape(2, 56, 56, 96, 192, 2),
        ]
    elif op == "sparse_dwconv":
        sizes = ((2, 14, 40), (3, 7, 48), (1, 28, 8), (2, 56, 96), (4, 14, 384), (4, 7, 768))
        found = [Shape(n, side, side, c) for n, side, c in sizes]
    else:
        sizes = ((1, 1, 1, 8), (2, 7, 7, 40), (3, 13, 5, 48), (2, 56, 56, 96), (4, 14, 14, 384), (4, 7, 7, 768))
        found = [Shape(*size) for size in sizes]
    return found[:2] if dry else found
