"""Gradients around patch_conv's CUDA operators: one function for convolution and norms."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._layer_norm.reference import layer_norm
from .._shared import differentiable
from .._shared.checks import any_needs_grad
from . import cuda_operators as operators
from . import reference
from .gather import Gather

_DIFFERENTIABLE = 7  # x and six parameters


class Options(NamedTuple):
    """What the operators take beside the tensors that have gradients."""

    eps: float
    planes: bool  # x are [N, Cin, H, W] in channels_last
    gather: Gather


class WholePatchConv(torch.autograd.Function):
    """Saves x, the parameters and, where a norm follows the convolution, what that reads. Backward gathers (and
    normalises) the blocks again.

    Inputs: options, x, weight, bias, weight and bias of the norm before the convolution, those of the norm after it."""

    @staticmethod
    def forward(ctx: Any, options: Options, x: Tensor, *parameters: Any) -> Tensor:
        eps, planes, gather = options
        out, z, copies = operators.forward_train(x, *parameters, eps, planes, *gather)
        *without_last, _ = parameters
        differentiable.save(ctx, x, *without_last, z if parameters[4] is not None else None, copies, gather.table)
        ctx.eps, ctx.planes, ctx.sizes = eps, planes, gather[1:]
        narrow = x.dtype is not torch.float32
        ctx.codes = tuple([2 if narrow and t is not None and t.dtype is x.dtype else 1 for t in (x, *parameters)])
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
        x, weight, bias, before_weight, before_bias, after_weight, z, copies, table = differentiable.saved(ctx)
        gather = Gather(table, *ctx.sizes)
        if differentiable.again():
            parameters = (weight, bias, before_weight, before_bias, after_weight)
            return _differentiable_gradients(ctx, gather, dout, x, *parameters)
        needed, wanted = ctx.needs_input_grad[1 : 1 + _DIFFERENTIABLE], 0
        for i, code in enumerate(ctx.codes):
            if needed[i]:
                wanted |= code << 2 * i
        in_planes = ctx.planes and table is None
        dy = dout.contiguous(memory_format=torch.channels_last if in_planes else torch.contiguous_format)
        saved = (x, z, copies, weight, before_weight, before_bias, after_weight)
        found: list[Tensor | None] = list(operators.backward(dy, *saved, wanted, ctx.eps, ctx.planes, *gather))
        for i in range(_DIFFERENTIABLE):
            if not needed[i]:
                found[i] = None
        return None, *found


def run(options: Options, x: Tensor, *parameters: Tensor | None) -> Tensor:
    """Runs the operators, with autograd only if a gradient is needed. `parameters`: see :class:`WholePatchConv`."""
    if any_needs_grad(x, *parameters):
        y: Tensor = WholePatchConv.apply(options, x, *parameters)
        return y
    return operators.forward(x, *parameters, options.eps, options.planes, *options.gather)


def _differentiable_gradients(
    ctx: Any,
    gather: Gather,
    dout: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    before_weight: Tensor | None,
    before_bias: Tensor | None,
    after_weight: Tensor | None,
) -> tuple[Any, ...]:
    planes = ctx.planes
    # It is added last: its value enters no gradient.
    after_bias = None if after_weight is None else torch.zeros_like(after_weight, requires_grad=False)

    def plain(x: Tensor, weight: Tensor, *vectors: Any) -> Tensor:
        bias, before_weight, before_bias, after_weight, after_bias = vectors
        rows = x.permute(0, 2, 3, 1) if planes else x
        y = reference.of_rows(rows, weight, bias, before_weight, before_bias, ctx.eps, gather)
        if after_weight is not None:
            y = layer_norm(y, after_weight, after_bias, eps=ctx.eps)
        if x.ndim != 4 or gather.table is not None:
            return y
        y = y.view(x.shape[0], gather.height // gather.k, gather.width // gather.k, y.shape[1])
        return y.permute(0, 3, 1, 2) if planes else y

    inputs = (x, weight, bias, before_weight, before_bias, after_weight, after_bias)
    return None, *differentiable.gradients(ctx, plain, inputs, dout)
