"""Gradients around the block's CUDA operators: one function for a whole block."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._dwconv.reference import of_rows
from .._layer_norm.reference import layer_norm
from .._mlp_grn.call import MlpGrnCall, MlpWeights
from .._mlp_grn.reference import run as mlp_grn
from .._shared import differentiable
from .._shared.checks import as_matrix, flat, in_strides, taps
from .._shared.groups import Groups
from .._shared.sites import Sites
from . import operators

_BIAS, _LN_BIAS, _B2 = 2, 4, 10  # of x and the ten parameters, those whose gradients the operator returns as [C]
_KERNEL, _W1, _W2 = 1, 5, 9  # those that may have four dimensions
_DIFFERENTIABLE = 11


class Options(NamedTuple):
    """What the operators take beside the tensors that have gradients."""

    ln_eps: float
    grn_eps: float
    mma: bool
    sites: Sites | None  # None, and so the next: x are planes [N, C, H, W] in channels_last
    groups: Groups | None

    @property
    def arguments(self) -> tuple[Any, ...]:
        """As the operators take them."""
        if self.sites is None or self.groups is None:
            return (*self[:3], True)
        h, w, _, site_map = self.sites
        return (*self[:3], False, h, w, site_map, *self.groups)


class Block(torch.autograd.Function):
    """Saves x, LayerNorm's input and output, the parameters (and copies of those that the kernels take in another
    form), and the groups' norms. The hidden activations are computed again.

    Inputs: options, x, :class:`BlockWeights` without the layer scale, residual (None: x), row_scale."""

    @staticmethod
    def forward(ctx: Any, options: Options, x: Tensor, *args: Any) -> Tensor:
        *parameters, residual, row_scale = args
        out, z, u, norm, weights = operators.forward_train(x, *args, *options.arguments)
        ctx.numbers, ctx.sizes, maps = options[:3], None, []
        if options.sites is not None and options.groups is not None:
            (h, w, *sites), (rows_per_group, count, *groups) = options.sites, options.groups
            ctx.sizes, maps = (h, w, rows_per_group, count), [*sites, *groups]
        differentiable.save(ctx, x, *parameters, row_scale, z, u, norm, weights, *maps)
        ctx.residual_dtype = None if residual is None else residual.dtype
        narrow = x.dtype is not torch.float32
        ctx.codes = tuple([2 if narrow and t is not None and t.dtype is x.dtype else 1 for t in (x, *parameters)])
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
        x, *rest = differentiable.saved(ctx)
        parameters, (row_scale, z, u, norm, weights, *maps) = rest[:10], rest[10:]
        options, planes = _options(ctx, maps), ctx.sizes is None
        if differentiable.again():
            return _differentiable_gradients(ctx, options, dout, x, parameters, row_scale)
        needed, wanted = ctx.needs_input_grad[1 : 1 + _DIFFERENTIABLE], 0
        for i, code in enumerate(ctx.codes):
            if needed[i]:
                wanted |= code << 2 * i
        kernel, bias, ln_weight, ln_bias, w1, b1, gamma, beta, w2, b2 = parameters
        saved = (x, z, u, norm, weights, kernel, ln_weight, w1, b1, gamma, beta, w2, row_scale)
        own = ctx.residual_dtype is None
        dy = dout.contiguous(memory_format=torch.channels_last if planes else torch.contiguous_format)
        found: list[Tensor | None] = list(operators.backward(dy, *saved, own, wanted, *options.arguments))
        for i, p in ((_BIAS, bias), (_LN_BIAS, ln_bias), (_B2, b2)):
            if needed[i] and p.ndim != 1:
                found[i] = found[i].view(p.shape)  # type: ignore[union-attr]  # it was asked for
        for i, p in ((_KERNEL, kernel), (_W1, w1), (_W2, w2)):
            if needed[i] and p.ndim == 4:
                found[i] = in_strides(found[i], p.stride())  # type: ignore[arg-type]
        for i in range(_DIFFERENTIABLE):
            if not needed[i]:
                found[i] = None
        return None, *found, None if own else dout, None


def _options(ctx: Any, maps: list[Any]) -> Options:
    ln_eps, grn_eps, mma = ctx.numbers
    if ctx.sizes is None:
        return Options(ln_eps, grn_eps, mma, None, None)
    h, w, rows_per_group, count = ctx.sizes
    index, site_map, row_group, offsets = maps
    sites, groups = Sites(h, w, index, site_map), Groups(rows_per_group, count, row_group, offsets)
    return Options(ln_eps, grn_eps, mma, sites, groups)


def _differentiable_gradients(
    ctx: Any, options: Options, dout: Tensor, x: Tensor, parameters: list[Any], row_scale: Tensor | None
) -> tuple[Any, ...]:
    # The residual is added last: its value enters no gradient.
    residual = None if ctx.residual_dtype is None else dout.new_zeros(dout.shape, dtype=ctx.residual_dtype)

    def plain(x: Tensor, *tensors: Any) -> Tensor:
        kernel, bias, *rest = tensors
        ln_weight, ln_bias, w1, b1, gamma, beta, w2, b2, residual, row_scale = rest
        planes = options.sites is None
        own = x.permute(0, 2, 3, 1) if planes else x
        sites = Sites.of(own, None) if options.sites is None else options.sites
        groups = Groups.of("block", own, None) if options.groups is None else options.groups
        rows = own.reshape(-1, own.shape[-1])
        z = of_rows(rows, taps(kernel), None if bias is None else flat(bias), sites)
        u = layer_norm(z, flat(ln_weight), flat(ln_bias), eps=options.ln_eps)
        weights = MlpWeights(as_matrix(w1), flat(b1), flat(gamma), flat(beta), as_matrix(w2), flat(b2))
        added = (own if residual is None else residual).reshape(rows.shape)
        y = mlp_grn(MlpGrnCall(u, weights, added, row_scale, options.grn_eps, groups, None)).view(own.shape)
        return y.permute(0, 3, 1, 2) if planes else y

    inputs = (x, *parameters, residual, row_scale)
    return None, *differentiable.gradients(ctx, plain, inputs, dout)
