"""Patch convolution's C++ operators, and the CUDA backend: gathered blocks, torch's matrix product, LayerNorm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ... import library
from ...layouts import Layout
from .._layer_norm import native as layer_norm
from .._layer_norm.reference import layer_norm as layer_norm_reference
from .._shared import cuda as _cuda
from .._shared.checks import autocast_off, in_one_dtype
from .gather import GATHER, Gather
from .reference import matrix


def _gather_fake(x: Tensor, norm_weight: Tensor | None, norm_bias: Tensor | None, eps: float, *of: Any) -> Tensor:
    return x.new_empty((Gather(*of).rows, Gather(*of).k ** 2 * x.shape[1]))


def _scatter_fake(blocks: Tensor, sources: int, covers: bool, *of: Any) -> Tensor:
    return blocks.new_empty((sources, blocks.shape[1] // Gather(*of).k ** 2))


library.define(
    f"patch_conv_gather(Tensor x, Tensor? norm_weight, Tensor? norm_bias, float eps, {GATHER}) -> Tensor", _gather_fake
)
library.define(f"patch_conv_scatter(Tensor blocks, SymInt sources, bool covers, {GATHER}) -> Tensor", _scatter_fake)
# x [S, Cin] to blocks [rows, k*k*Cin], columns (ky, kx, cin), normalised over Cin on the way if there is a norm_weight;
# blocks back to [S, Cin], zeros where no block has a row (`covers`: there are none). No autograd.
gather = torch.ops.convnextv2_fast.patch_conv_gather.default
scatter = torch.ops.convnextv2_fast.patch_conv_scatter.default


class _PatchConv(torch.autograd.Function):
    """Saves x; backward gathers (and normalises) the blocks again."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,  # [S, Cin]
        w: Tensor,  # [k*k*Cin, Cout], x's dtype
        bias: Tensor | None,  # [Cout]
        norm_weight: Tensor | None,  # [Cin]
        norm_bias: Tensor | None,  # [Cin]
        eps: float,
        of: Gather,
    ) -> Tensor:
        ctx.save_for_backward(x, w, norm_weight, norm_bias, of.table)
        ctx.of, ctx.covers, ctx.eps = of[1:], of.covers, eps
        ctx.bias_dtype = None if bias is None else bias.dtype
        return _product(x, w, bias, norm_weight, norm_bias, eps, of)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        with autocast_off(dz):  # the products run in the tensors' own types
            return _gradients(ctx, dz)


def _gradients(ctx: Any, dz: Tensor) -> tuple[Any, ...]:
    x, w, norm_weight, norm_bias, table = ctx.saved_tensors
    needs_x, needs_w, needs_bias, *needs_norm = ctx.needs_input_grad[:5]
    dx = dw = dbias = dnorm_weight = dnorm_bias = None
    if needs_w:
        dw = gather(x, norm_weight, norm_bias, ctx.eps, table, *ctx.of).t() @ dz
    if needs_bias:
        dbias = dz.sum(0, dtype=torch.float32).to(ctx.bias_dtype)
    if needs_x or any(needs_norm):
        dx = scatter(dz @ w.t(), x.shape[0], ctx.covers, table, *ctx.of)
        if norm_weight is not None:
            dx, dparams = layer_norm.backward(dx, x, norm_weight, ctx.eps)
            dnorm_weight, dnorm_bias = dparams[0].to(norm_weight.dtype), dparams[1].to(norm_bias.dtype)
    return dx, dw, dbias, dnorm_weight, dnorm_bias, None, None


def _product(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    of: Gather,
) -> Tensor:
    blocks = gather(x, norm_weight, norm_bias, eps, *of)
    return blocks @ w if bias is None else torch.addmm(bias.to(x.dtype), blocks, w)


def run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    norm_before: tuple[Tensor, Tensor] | None = None,
    norm_after: tuple[Tensor, Tensor] | None = None,
    eps: float = 1e-6,
    layout: Layout | None = None,
) -> Tensor:
    """:func:`convnextv2_fast.ops.patch_conv` on CUDA kernels; `norm_after` is the layer_norm op's kernel."""
    k = weight.shape[-1] if weight.ndim == 4 else round(weight.shape[0] ** 0.5)
    of = Gather.of(x, k, layout)
    rows, w = x.reshape(-1, x.shape[-1]).contiguous(), matrix(weight).to(x.dtype)
    flat = None if bias is None else bias.reshape(-1)
    tensors = (rows, w, flat, *in_one_dtype(*(norm_before or (None, None))))
    args: tuple[Any, ...] = (*tensors, eps, of)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        z = _PatchConv.apply(*args)
    else:
        z = _product(*args)
    if norm_after is not None:
        wide = z.shape[1] > _cuda.WIDEST
        z = layer_norm_reference(z, *norm_after, eps=eps) if wide else layer_norm.run(z, *norm_after, eps=eps)
    return z.view(x.shape[0], x.shape[1] // k, x.shape[2] // k, z.shape[1]) if layout is None else z


CUDA = _cuda.implementation(run)
