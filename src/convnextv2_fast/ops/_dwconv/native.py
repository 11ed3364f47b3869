"""The depthwise convolution's C++ operators: schemas, shape functions, and the CPU and CUDA backends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ... import library
from ...layouts import Layout
from .._shared import cpu as _cpu
from .._shared import cuda as _cuda
from .._shared.checks import float_taps
from .._shared.sites import PLANE, Sites
from .autograd import SparseDwconv


def _forward_fake(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _backward_fake(
    dy: Tensor, x: Tensor, kernel: Tensor, wants_dx: bool, wants_dparams: bool, *_: Any
) -> tuple[Tensor, Tensor]:
    rows, c = x.shape
    dparams = x.new_empty((50 if wants_dparams else 0, c), dtype=torch.float32)
    return x.new_empty((rows if wants_dx else 0, c)), dparams


# Contiguous rows [T, C], kernel float32 [49, C] with tap = kx*7 + ky, bias [C]; no autograd. Both gradients are
# taken in one call; dparams is float32 [50, C], the taps', then the bias's; what is not wanted comes back empty.
# mma: on the tensor cores, the gradients of input and parameters in one kernel each; see `takes_mma`.
for _name in ("dwconv", "dwconv_mma"):
    library.define(f"{_name}_fwd(Tensor x, Tensor kernel, Tensor? bias, {PLANE}) -> Tensor", _forward_fake)
    library.define(
        f"{_name}_bwd(Tensor dy, Tensor x, Tensor kernel, bool wants_dx, bool wants_dparams, {PLANE}) "
        "-> (Tensor dx, Tensor dparams)",
        _backward_fake,
    )


def takes_mma(dtype: torch.dtype, channels: int, layout: Layout | None) -> bool:
    """Whether the tensor cores' kernels take a call.

    They take 16-bit activations of a dense plane whose C is a multiple of 8, on compute capability 8.0 and newer."""
    dense = layout is None or layout.kind == "dense"
    capable = _cuda.DEVICE != "cuda" or library.capability() >= (8, 0)
    return dtype != torch.float32 and channels % 8 == 0 and dense and capable


def _op(name: str, x: Tensor, site_map: Tensor | None) -> Any:
    ops = torch.ops.convnextv2_fast
    mma = x.device.type == _cuda.DEVICE and _cuda.tensor_cores() and site_map is None
    on = "_mma" if mma and takes_mma(x.dtype, x.shape[1], None) else ""
    return getattr(ops, f"dwconv{on}_{name}").default


def _forward(
    x: Tensor, kernel: Tensor, bias: Tensor | None, h: int, w: int, index: Tensor | None, site_map: Tensor | None
) -> Tensor:
    return _op("fwd", x, site_map)(x, kernel, bias, h, w, site_map)


def _backward(
    dy: Tensor,
    x: Tensor,
    kernel: Tensor,
    wants_dx: bool,
    wants_dparams: bool,
    h: int,
    w: int,
    index: Tensor | None,
    site_map: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return _op("bwd", x, site_map)(dy, x, kernel, wants_dx, wants_dparams, h, w, site_map)


KERNELS = SimpleNamespace(forward=_forward, backward=_backward)


def run(x: Tensor, kernel: Tensor, bias: Tensor | None, *, layout: Layout) -> Tensor:
    """:func:`convnextv2_fast.ops.sparse_dwconv` on the CPU or CUDA kernels."""
    args = (x.contiguous(), float_taps(kernel), None if bias is None else bias.reshape(-1).contiguous())
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in args):
        return SparseDwconv.apply(KERNELS, *args, Sites.of(layout))
    return KERNELS.forward(*args, *Sites.of(layout))


CPU = _cpu.implementation(run)
CUDA = _cuda.implementation(run)
