"""The 7x7 depthwise convolution alone: forward, dgrad (gradient of the input), wgrad (of the weight), and the whole
backward (both and the bias's gradient); torch on cuDNN, torch on ATen's own kernels, and ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convnextv2_fast import dispatch
from convnextv2_fast.bench import inside
from convnextv2_fast.bench.timing import Run

from . import checks
from .roofline import Work

# Activations that a pass must move, in units of N*H*W*C elements.
UNITS = {"forward": 2, "dgrad": 2, "wgrad": 2, "backward": 3}
MASKS = {"dgrad": [True, False, False], "wgrad": [False, True, False], "backward": [True, True, True]}
Pass = Callable[[Tensor, Tensor], Sequence[Tensor]]


def torch_pass(which: str, weight: Tensor, bias: Tensor, cudnn: bool) -> Pass:
    """On `[N, C, H, W]` x and dy in any memory order."""
    c = weight.shape[0]

    def call(x: Tensor, g: Tensor) -> Sequence[Tensor]:
        with torch.backends.cudnn.flags(enabled=cudnn, benchmark=cudnn):
            if which == "forward":
                return [torch.nn.functional.conv2d(x, weight, bias, padding=3, groups=c)]
            found = torch.ops.aten.convolution_backward(
                g, x, weight, [c], [1, 1], [3, 3], [1, 1], False, [0, 0], c, MASKS[which]
            )
            return [t for t, wanted in zip(found, MASKS[which], strict=True) if wanted]

    return call


def our_pass(which: str, weight: Tensor, bias: Tensor, backend: str) -> Pass:
    """The same on the kernels of a backend, called directly: x and dy channels_last, rows without a copy."""
    kernels, kernel = inside.depthwise(backend.partition("-")[0], weight)

    def call(x: Tensor, g: Tensor) -> Sequence[Tensor]:
        inside.use_dwconv_kernel("mma" if backend == "cuda-mma" else "fma")
        (n, c, h, w), x, g = x.shape, *(t.permute(0, 2, 3, 1).flatten(0, 2) for t in (x, g))
        sites = (h, w, None, None)

        def plane(rows: Tensor) -> Tensor:
            return rows.view(n, h, w, c).permute(0, 3, 1, 2)

        if which == "forward":
            return [plane(kernels.forward(x, kernel, bias, *sites))]
        dx, params = kernels.backward(g, x, kernel, which != "wgrad", which != "dgrad", *sites)
        weights = [] if which == "dgrad" else [params[:49].view(7, 7, c).permute(2, 1, 0).unsqueeze(1), params[49]]
        return ([] if which == "wgrad" else [plane(dx)]) + weights[: 1 if which == "wgrad" else 2]

    return call


def providers(device: str) -> list[str]:
    """torch's two and ours, whether they can run or not."""
    return ["cudnn", "aten", "fast-cuda-fma", "fast-cuda-mma", "fast-triton"] if device == "cuda" else ["aten"]


def why_not(provider: str, device: str, dtype: torch.dtype) -> str:
    """Why a provider of ours cannot run here; empty: it can."""
    if not provider.startswith("fast-"):
        return ""
    backend = provider.split("-")[1]
    if provider.endswith("-mma") and dtype == torch.float32:
        return "the tensor cores take 16-bit activations"
    missing = dispatch.backends()[backend]
    spec = dispatch.Spec("sparse_dwconv", device, dtype, dtype, 8, "dense", True)
    (found,) = (i for i in dispatch.implementations("sparse_dwconv") if i.backend == backend)
    return "; ".join(missing or found.reasons(spec))


@dataclass(frozen=True)
class PassCase:
    """One pass of the convolution on `[batch, side, side, c]`."""

    batch: int
    side: int
    c: int
    which: str
    dtype: torch.dtype
    device: str

    @property
    def what(self) -> str:
        """The column `case` of results."""
        return f"dwconv7x7-{self.side}x{self.side}x{self.c}-{self.which}"

    @property
    def work(self) -> Work:
        elements = self.batch * self.side**2 * self.c
        return Work(UNITS[self.which] * elements * self.dtype.itemsize, UNITS[self.which] // 2 * 2 * 49 * elements)

    def candidate(self, provider: str, sets: int) -> tuple[Run, float]:
        """What runs, over `sets` inputs in turn, and its error against float64. Within torch.inference_mode()."""
        layout = torch.contiguous_format if provider == "aten" else torch.channels_last

        def plane() -> Tensor:
            shape = (self.batch, self.c, self.side, self.side)
            return torch.randn(shape, device=self.device).to(self.dtype).contiguous(memory_format=layout)

        xs, gs = [plane() for _ in range(sets)], [plane() for _ in range(sets)]
        sizes = ((self.c, 1, 7, 7), (self.c,))
        weight, bias = (torch.randn(size, device=self.device).to(self.dtype) / 7 for size in sizes)
        if provider.startswith("fast-"):
            call = our_pass(self.which, weight, bias, provider.removeprefix("fast-"))
        else:
            call = torch_pass(self.which, weight, bias, provider == "cudnn")
        exact = torch_pass(self.which, weight.double(), bias.double(), False)(xs[0].double(), gs[0].double())
        with checks.poisoned(self.device):
            found = checks.difference(list(call(xs[0], gs[0])), list(exact))
        checks.require(found, self.dtype, False, f"{self.what}, {provider}")

        def run(i: int) -> Sequence[Tensor]:
            return call(xs[i % sets], gs[i % sets])

        return run, found.max_relative
