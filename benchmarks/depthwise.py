"""Rows of the GPU report on the 7x7 depthwise convolution alone: forward, dgrad, wgrad, and the whole backward (dgrad,
wgrad and the bias's gradient) at a model's four stages; torch on cuDNN, torch on ATen's own kernels, and ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from convnextv2_fast import dispatch
from convnextv2_fast.ops import _cuda
from convnextv2_fast.ops._common import taps

from . import _check
from ._roofline import Work, ceilings
from ._timing import Timing, interleaved, peak_memory, watch_for
from .measure import Effort, one_line, significant

Row = dict[str, Any]
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
    if backend.startswith("cuda"):
        from convnextv2_fast.ops.sparse_dwconv.native import KERNELS

        kernel = taps(weight).float().contiguous()
    else:
        from convnextv2_fast.ops.sparse_dwconv.triton import KERNELS

        kernel = taps(weight).contiguous()

    def call(x: Tensor, g: Tensor) -> Sequence[Tensor]:
        _cuda.DWCONV = "mma" if backend == "cuda-mma" else "fma"
        (n, c, h, w), x, g = x.shape, *(t.permute(0, 2, 3, 1).flatten(0, 2) for t in (x, g))
        sites = (h, w, None, None)

        def plane(rows: Tensor) -> Tensor:
            return rows.view(n, h, w, c).permute(0, 3, 1, 2)

        if which == "forward":
            return [plane(KERNELS.forward(x, kernel, bias, *sites))]
        dx, params = KERNELS.backward(g, x, kernel, which != "wgrad", which != "dgrad", *sites)
        weights = [] if which == "dgrad" else [params[:49].view(7, 7, c).permute(2, 1, 0).unsqueeze(1), params[49]]
        return ([] if which == "wgrad" else [plane(dx)]) + weights[: 1 if which == "wgrad" else 2]

    return call


def providers(device: str) -> list[str]:
    """torch's two and ours, whether they can run or not."""
    return ["cudnn", "aten", "fast-cuda", "fast-cuda-mma", "fast-triton"] if device == "cuda" else ["aten"]


def why_not(provider: str, device: str, dtype: torch.dtype) -> str:
    """Why a provider of ours cannot run here; empty: it can."""
    backend = provider.removeprefix("fast-").removesuffix("-mma")
    if backend == provider:
        return ""
    if provider.endswith("-mma") and dtype == torch.float32:
        return "the tensor cores take 16-bit activations"
    missing = dispatch.backends()[backend]
    spec = dispatch.Spec("sparse_dwconv", device, dtype, dtype, 8, "dense", True)
    (found,) = (i for i in dispatch.implementations("sparse_dwconv") if i.backend == backend)
    return "; ".join(missing or found.reasons(spec))


def rows(
    stages: Sequence[tuple[int, int]], batch: int, precision: str, device: str, effort: Effort
) -> tuple[list[str], Callable[[], list[Row]]]:
    """Keys of all rows, and what measures them; `stages`: side and channels of each."""
    dtype, wanted = getattr(torch, precision), providers(device)

    def name(side: int, c: int, which: str) -> str:
        return f"dwconv7x7-{batch}x{side}x{side}x{c}-{which}-{precision}"

    def one(side: int, c: int, which: str, provider: str) -> Row:
        row: Row = {"name": name(side, c, which), "provider": provider}
        reason = why_not(provider, device, dtype)
        if reason:
            return row | {"status": "skipped", "reason": reason}
        elements = batch * side * side * c
        work = Work(UNITS[which] * elements * dtype.itemsize, UNITS[which] // 2 * 2 * 49 * elements)
        sets = 1 if effort.rounds == 1 else max(2, min(8, round(256e6 / work.bytes)))
        layout = torch.contiguous_format if provider == "aten" else torch.channels_last

        def plane() -> Tensor:
            return torch.randn(batch, c, side, side, device=device).to(dtype).contiguous(memory_format=layout)

        xs, gs = [plane() for _ in range(sets)], [plane() for _ in range(sets)]
        weight, bias = (torch.randn(size, device=device).to(dtype) / 7 for size in ((c, 1, 7, 7), (c,)))
        if provider.startswith("fast-"):
            call = our_pass(which, weight, bias, provider.removeprefix("fast-"))
        else:
            call = torch_pass(which, weight, bias, provider == "cudnn")
        with torch.inference_mode():
            exact = torch_pass(which, weight.double(), bias.double(), False)(xs[0].double(), gs[0].double())
            with _check.poisoned(device):
                error = _check.difference(list(call(xs[0], gs[0])), list(exact))

            def run(i: int) -> Sequence[Tensor]:
                return call(xs[i % sets], gs[i % sets])

            limits = {"warmup": effort.warmup, "round_seconds": effort.round_seconds, "max_seconds": effort.max_seconds}
            timing = interleaved({"it": run}, watch=watch_for(device), rounds=effort.rounds, **limits)["it"]
            if not isinstance(timing, Timing):
                raise timing
            row |= {"status": "ok", "max_relative_error": error.max_relative}
            row["gb_per_s"] = significant(work.bytes / timing.median / 1e9)
            row["roofline_share"] = significant(ceilings(device, dtype).floor(work) / timing.median)
            peak = peak_memory(run, device)
            return row | timing.milliseconds() | ({} if peak is None else {"peak_mib": round(peak / 2**20, 1)})

    cases = [(side, c, which, provider) for side, c in stages for which in UNITS for provider in wanted]

    def measure() -> list[Row]:
        found = []
        for side, c, which, provider in cases:
            try:
                found.append(one(side, c, which, provider))
            except Exception as error:
                failed = {"status": "failed", "reason": one_line(error)}
                found.append({"name": name(side, c, which), "provider": provider} | failed)
        return found

    return [f"{name(*case[:3])} / {case[3]}" for case in cases], measure
