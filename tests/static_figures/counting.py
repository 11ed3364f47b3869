"""Whole models on tensors without values, and what they launch and call. An operator of PyTorch counts by its name:
`launches.of_torch`. An operator of this library runs once more for each set of shapes, on CPU tensors, without kernels
(`operators.py`): its C++ and its launchers say what they would start.

A program of its own, since the fake device must be loaded before torch:
FAKE_DEVICE=device.so python -m tests.static_figures.counting prints JSON.
"""

import tests.fake_device.loaded  # isort: skip  # noqa: F401  before torch

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import convnextv2_fast as cf
from convnextv2_fast import library
from convnextv2_fast.models import convnextv2, convnextv2_sparse, fcmae
from tests.compile_cache import ROOT

from .launches import of_torch
from .operators import Operators

IMAGES, SIZE = 8, 224
# Channels and side of a plane. In the first two stages GRN's scale goes into weights, later into activations.
STAGES = {"stages 1, 2": (96, 56), "stages 3, 4": (384, 14)}
CASES = {"bfloat16 parameters": torch.bfloat16, "autocast with float32 parameters": torch.float32}


class Count(TorchDispatchMode):
    """Launches and calls of what runs within."""

    operators = Operators()
    of_call: ClassVar[dict[str, int]] = {}  # launches of this library's operators, by name and arguments

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "prim":  # asks a tensor for its device
            return func(*args, **(kwargs or {}))
        if func._can_decompose():  # in inference mode nobody has taken it apart before
            with self:
                return func.decompose(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        self.calls += 1
        if func.namespace == library.NAMESPACE:
            self.launches += self._of_ours(func, args)
        elif not func.is_view and any(
            isinstance(t, torch.Tensor) and t.is_cuda and t.numel() for t in tree_leaves(result)
        ):
            self.launches += of_torch(func.name().removeprefix("aten::").partition(".")[0])
        return result

    def _of_ours(self, func: Any, args: Any) -> int:
        def described(x: Any) -> Any:
            return (x.shape, x.stride(), x.dtype) if isinstance(x, torch.Tensor) else x

        key = f"{func.name()} {[described(x) for x in args]}"
        if key not in self.of_call:
            with unset_fake_temporarily():
                real = tree_map_only(torch.Tensor, _on_cpu, list(args))
                started, called = self.operators.during(lambda: func(*real))
            self.of_call[key] = started + sum(of_torch(name) for name in called if not _is_view(name))
        return self.of_call[key]


def _on_cpu(t: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype)


def _is_view(name: str) -> bool:
    packet = getattr(torch.ops.aten, name)
    return any(getattr(packet, overload).is_view for overload in packet.overloads())


@contextlib.contextmanager
def faked() -> Iterator[None]:
    """Tensors without values, on a GPU that the backend takes for an H100."""
    with contextlib.ExitStack() as changed:
        for owner, name, value in (
            (torch.cuda, "is_available", True),
            (torch.cuda, "is_bf16_supported", True),
            (torch.cuda, "is_current_stream_capturing", False),
            (torch.cuda, "get_device_properties", SimpleNamespace(major=9, minor=0, multi_processor_count=132)),
            (library, "why_not", None),
            (library, "cuda_code_for", True),
        ):
            changed.enter_context(mock.patch.object(owner, name, lambda *_, value=value, **__: value))
        changed.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        changed.enter_context(cf.use_backend("cuda"))
        yield


def on_gpu(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module with new parameters, which have no values."""
    for part in module.modules():
        for name, p in part.named_parameters(recurse=False):
            fake = torch.empty_strided(p.shape, p.stride(), dtype=dtype, device="cuda")
            setattr(part, name, nn.Parameter(fake))
    return module


def of(run: Callable[[], Any]) -> Count:
    with Count() as count:
        run()
    return count


def of_block(block: Any, channels: int, side: int, dtype: torch.dtype) -> Iterator[tuple[str, Count]]:
    """Inference, and a training step's share: gradients of parameters and of the input."""
    rows = torch.zeros(IMAGES, side, side, channels, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    x, dy = rows.permute(0, 3, 1, 2), torch.zeros_like(rows).permute(0, 3, 1, 2)
    autocast = torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.float32)

    def infer() -> Any:
        with torch.inference_mode(), autocast:
            return block(x)

    def train() -> Any:
        with autocast:
            y = block(x)
        y.backward(dy)

    yield "inference", of(infer)
    yield "forward and backward", of(train)


def of_models(tiny: Any, mae: Any, dtype: torch.dtype) -> Iterator[tuple[str, Count]]:
    """Steps without the optimizer's, which is PyTorch's."""
    images = torch.zeros(IMAGES, 3, SIZE, SIZE, device="cuda", dtype=dtype)
    labels = torch.zeros(IMAGES, dtype=torch.int64, device="cuda")
    autocast = torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.float32)

    def infer() -> Any:
        with torch.inference_mode(), autocast:
            return tiny.eval()(images)

    def train() -> Any:
        with autocast:
            loss = F.cross_entropy(tiny.train()(images), labels)
        loss.backward()

    def pretrain() -> Any:
        with autocast:
            loss = mae.train()(images, full_pred=False)[0]
        loss.backward()

    yield "convnextv2_tiny, inference", of(infer)
    yield "convnextv2_tiny, training step", of(train)
    yield "convnextv2_tiny, FCMAE step", of(pretrain)


def implemented_in(operator: str) -> str:
    return next(
        path.relative_to(ROOT).as_posix()
        for path in sorted(ROOT.glob("csrc/torch/*_cuda.cpp"))
        if f'm.impl("{operator}"' in path.read_text()
    )


def main() -> Iterator[tuple[str, str, int, str]]:
    """Figures: name, unit, value, source."""
    with contextlib.ExitStack() as changed:
        for module in (convnextv2, convnextv2_sparse, fcmae):  # nobody asks for the values, which take seconds
            changed.enter_context(mock.patch.object(module, "trunc_normal_", lambda t, **_: t))
        tiny, mae = convnextv2.convnextv2_tiny(), fcmae.convnextv2_tiny()
    blocks = {stage: convnextv2.Block(channels) for stage, (channels, _) in STAGES.items()}
    with faked():
        for case, dtype in CASES.items():
            for stage, (channels, side) in STAGES.items():
                for what, count in of_block(on_gpu(blocks[stage], dtype), channels, side, dtype):
                    name = f"block of {stage}, {what}, {case}"
                    yield name, "launches", count.launches, "tests/fake_device"
                    yield name, "operators called", count.calls, "tests/fake_device"
            for name, count in of_models(on_gpu(tiny, dtype), on_gpu(mae, dtype), dtype):
                yield f"{name}, {case}", "launches", count.launches, "tests/fake_device"
    most: dict[str, int] = {}
    for key, launches in Count.of_call.items():
        name = re.sub(r"\w+::|\..*", "", key.partition(" ")[0])
        most[name] = max(launches, most.get(name, 0))
    for name, launches in sorted(most.items()):
        yield name, "launches of a call, at most", launches, implemented_in(name)


if __name__ == "__main__":
    print(json.dumps(list(main())))
