"""LayerNorm's C++ operators: schemas, shape functions, gradients, and the CPU and CUDA backends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ... import library
from .._shared import cpu as _cpu
from .._shared import cuda as _cuda
from .._shared.checks import in_one_dtype


def _forward_fake(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _backward_fake(dy: Tensor, x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((2, x.shape[1]), dtype=torch.float32)


library.define("layer_norm_fwd(Tensor x, Tensor weight, Tensor bias, float eps) -> Tensor", _forward_fake)
library.define(
    "layer_norm_bwd(Tensor dy, Tensor x, Tensor weight, float eps) -> (Tensor dx, Tensor dparams)", _backward_fake
)
# Contiguous rows x, dy [T, C]; weight, bias [C]; no autograd. backward takes the statistics from x again and returns dx
# and float32 [2, C], the gradients of weight and bias.
forward = torch.ops.convnextv2_fast.layer_norm_fwd.default
backward = torch.ops.convnextv2_fast.layer_norm_bwd.default


class _LayerNorm(torch.autograd.Function):
    """Saves x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, weight)
        ctx.eps, ctx.bias_dtype = eps, bias.dtype
        return forward(x, weight, bias, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        dx, dparams = backward(dy.contiguous(), x, weight, ctx.eps)
        return dx, dparams[0].to(weight.dtype), dparams[1].to(ctx.bias_dtype), None


def run(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-6) -> Tensor:
    """:func:`convnextv2_fast.ops.layer_norm` on C++ kernels, CPU or CUDA."""
    args: tuple[Any, ...] = (x.reshape(-1, x.shape[-1]).contiguous(), *in_one_dtype(weight, bias))
    if torch.is_grad_enabled() and any(t.requires_grad for t in args):
        return _LayerNorm.apply(*args, eps).view(x.shape)
    return forward(*args, eps).view(x.shape)


CPU = _cpu.implementation(run)
CUDA = _cuda.implementation(run)
