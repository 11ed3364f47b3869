"""LayerNorm's Triton backend: schemas, shape functions and gradients. The kernels are imported at the first call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ... import library
from .. import _triton

_KERNELS = "convnextv2_fast.ops._layer_norm.triton_kernels"


def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    mean, rstd = (x.new_empty((x.shape[0],), dtype=torch.float32) for _ in range(2))
    return x.new_empty(x.shape), mean, rstd


def _backward_fake(dy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dweight, dbias = (x.new_empty((x.shape[1],), dtype=torch.float32) for _ in range(2))
    return x.new_empty(x.shape), dweight, dbias


library.define(
    "triton_layer_norm_fwd(Tensor x, Tensor weight, Tensor bias, float eps) -> (Tensor y, Tensor mean, Tensor rstd)",
    _forward_fake,
    f"{_KERNELS}:forward",
)
library.define(
    "triton_layer_norm_bwd(Tensor dy, Tensor x, Tensor weight, Tensor mean, Tensor rstd) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias)",
    _backward_fake,
    f"{_KERNELS}:backward",
)
_forward = torch.ops.convnextv2_fast.triton_layer_norm_fwd.default
# Contiguous dy, x [T, C], weight [C], mean, rstd float32 [T] -> dx [T, C] in x's dtype, dweight, dbias float32 [C].
backward = torch.ops.convnextv2_fast.triton_layer_norm_bwd.default


class _LayerNorm(torch.autograd.Function):
    """Saves x, mean and rstd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:  # type: ignore[override]
        y, mean, rstd = _forward(x, weight, bias, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.bias_dtype = bias.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, weight, mean, rstd = ctx.saved_tensors
        dx, dweight, dbias = backward(dy.contiguous(), x, weight, mean, rstd)
        return dx, dweight.to(weight.dtype), dbias.to(ctx.bias_dtype), None


def run(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-6) -> Tensor:
    """:func:`convnextv2_fast.ops.layer_norm` on Triton kernels."""
    rows, weight, bias = x.reshape(-1, x.shape[-1]).contiguous(), weight.contiguous(), bias.contiguous()
    if torch.is_grad_enabled() and any(t.requires_grad for t in (rows, weight, bias)):
        return _LayerNorm.apply(rows, weight, bias, eps).view(x.shape)
    return _forward(rows, weight, bias, eps)[0].view(x.shape)


TRITON = _triton.implementation(run)
