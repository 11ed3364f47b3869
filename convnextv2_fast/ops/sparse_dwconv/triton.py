"""The depthwise convolution's Triton backend: schemas, shape functions and gradients.

The kernels are imported at the first call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ... import library
from ...layouts import Layout
from .. import _triton
from .._common import taps
from .._sites import SITES, Sites

_KERNELS = "convnextv2_fast.ops.sparse_dwconv.triton_kernels"


def _like_first(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _parameters_fake(dy: Tensor, x: Tensor, *_: Any) -> Tensor:
    return x.new_empty((50, x.shape[1]), dtype=torch.float32)


library.define(
    f"triton_sparse_dwconv_fwd(Tensor x, Tensor kernel, Tensor? bias, {SITES}) -> Tensor",
    _like_first,
    f"{_KERNELS}:forward",
)
library.define(
    f"triton_sparse_dwconv_bwd_input(Tensor dy, Tensor kernel, {SITES}) -> Tensor",
    _like_first,
    f"{_KERNELS}:input_gradient",
)
library.define(
    f"triton_sparse_dwconv_bwd_params(Tensor dy, Tensor x, {SITES}) -> Tensor",
    _parameters_fake,
    f"{_KERNELS}:parameter_gradients",
)
_forward = torch.ops.convnextv2_fast.triton_sparse_dwconv_fwd.default
# Contiguous dy [T, C], kernel [49, C] -> dx [T, C]; dy, x -> float32 [50, C], the taps' gradients, then the bias's.
input_gradient = torch.ops.convnextv2_fast.triton_sparse_dwconv_bwd_input.default
parameter_gradients = torch.ops.convnextv2_fast.triton_sparse_dwconv_bwd_params.default


class _SparseDwconv(torch.autograd.Function):
    """Saves x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, bias: Tensor | None, sites: Sites) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, kernel, sites.index, sites.site_map)
        ctx.plane, ctx.bias_dtype = sites[:2], None if bias is None else bias.dtype
        return _forward(x, kernel, bias, *sites)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, kernel, *maps = ctx.saved_tensors
        of_x, of_kernel, of_bias, _ = ctx.needs_input_grad
        dy, dx, dkernel, dbias = dy.contiguous(), None, None, None
        if of_x:
            dx = input_gradient(dy, kernel, *ctx.plane, *maps)
        if of_kernel or of_bias:
            params = parameter_gradients(dy, x, *ctx.plane, *maps)
            dkernel = params[:49].to(kernel.dtype)
            dbias = params[49].to(ctx.bias_dtype) if of_bias else None
        return dx, dkernel, dbias, None


def run(x: Tensor, kernel: Tensor, bias: Tensor | None, *, layout: Layout) -> Tensor:
    """:func:`convnextv2_fast.ops.sparse_dwconv` on Triton kernels."""
    sites = Sites.of(layout)
    x, kernel = x.contiguous(), taps(kernel).contiguous()
    bias = None if bias is None else bias.reshape(-1).contiguous()
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, kernel, bias)):
        return _SparseDwconv.apply(x, kernel, bias, sites)
    return _forward(x, kernel, bias, *sites)


TRITON = _triton.implementation(run)
