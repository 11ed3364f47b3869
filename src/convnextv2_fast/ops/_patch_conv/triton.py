"""Patch convolution's Triton backend: schemas, shape functions, gradients. Kernels are imported at the first call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ... import library
from ...layouts import Layout
from .. import _triton
from .._layer_norm import triton as layer_norm
from .._shared.checks import autocast_off
from .gather import GATHER, Gather
from .reference import matrix

_KERNELS = "convnextv2_fast.ops._patch_conv.triton_kernels"
_NORM = "Tensor? norm_weight, Tensor? norm_bias"


def _forward_fake(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    *of: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    sources = 0 if norm_weight is None else x.shape[0]
    mean, rstd = (x.new_empty((sources,), dtype=torch.float32) for _ in range(2))
    return x.new_empty((Gather(*of).rows, w.shape[1])), mean, rstd


def _blocks_fake(
    x: Tensor, norm_weight: Tensor | None, norm_bias: Tensor | None, mean: Tensor, rstd: Tensor, *of: Any
) -> Tensor:
    return x.new_empty((Gather(*of).rows, Gather(*of).k ** 2 * x.shape[1]))


def _scatter_fake(blocks: Tensor, sources: int, covers: bool, *of: Any) -> Tensor:
    return blocks.new_empty((sources, blocks.shape[1] // Gather(*of).k ** 2))


library.define(
    f"triton_patch_conv_fwd(Tensor x, Tensor w, Tensor? bias, {_NORM}, float eps, {GATHER}) "
    "-> (Tensor z, Tensor mean, Tensor rstd)",
    _forward_fake,
    f"{_KERNELS}:forward",
)
library.define(
    f"triton_patch_conv_blocks(Tensor x, {_NORM}, Tensor mean, Tensor rstd, {GATHER}) -> Tensor",
    _blocks_fake,
    f"{_KERNELS}:blocks",
)
library.define(
    f"triton_patch_conv_scatter(Tensor blocks, SymInt sources, bool covers, {GATHER}) -> Tensor",
    _scatter_fake,
    f"{_KERNELS}:scatter",
)
_forward = torch.ops.convnextv2_fast.triton_patch_conv_fwd.default
_blocks = torch.ops.convnextv2_fast.triton_patch_conv_blocks.default
_scatter = torch.ops.convnextv2_fast.triton_patch_conv_scatter.default


class _PatchConv(torch.autograd.Function):
    """Saves x and its rows' mean and rstd; backward gathers (and normalises) the blocks again."""

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
        z, mean, rstd = _forward(x, w, bias, norm_weight, norm_bias, eps, *of)
        ctx.save_for_backward(x, w, norm_weight, norm_bias, mean, rstd, of.table)
        ctx.of, ctx.covers = of[1:], of.covers
        ctx.bias_dtype = None if bias is None else bias.dtype
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        with autocast_off(dz):  # the products run in the tensors' own types
            return _gradients(ctx, dz)


def _gradients(ctx: Any, dz: Tensor) -> tuple[Any, ...]:
    x, w, norm_weight, norm_bias, mean, rstd, table = ctx.saved_tensors
    needs_x, needs_w, needs_bias, *needs_norm = ctx.needs_input_grad[:5]
    dx = dw = dbias = dnorm_weight = dnorm_bias = None
    dz = dz.contiguous()
    if needs_w:
        dw = _blocks(x, norm_weight, norm_bias, mean, rstd, table, *ctx.of).t() @ dz
    if needs_bias:
        dbias = dz.sum(0, dtype=torch.float32).to(ctx.bias_dtype)
    if needs_x or any(needs_norm):
        dx = _scatter(dz @ w.t(), x.shape[0], ctx.covers, table, *ctx.of)
        if norm_weight is not None:
            dx, dnorm_weight, dnorm_bias = layer_norm.backward(dx, x, norm_weight, mean, rstd)
            dnorm_weight, dnorm_bias = dnorm_weight.to(norm_weight.dtype), dnorm_bias.to(norm_bias.dtype)
    return dx, dw, dbias, dnorm_weight, dnorm_bias, None, None


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
    """:func:`convnextv2_fast.ops.patch_conv` on Triton kernels; `norm_after` is the layer_norm op's kernel."""
    k = weight.shape[-1] if weight.ndim == 4 else round(weight.shape[0] ** 0.5)
    of = Gather.of(x, k, layout)
    rows, w = x.reshape(-1, x.shape[-1]).contiguous(), matrix(weight).to(x.dtype).contiguous()
    vectors = [None if v is None else v.reshape(-1).contiguous() for v in (bias, *(norm_before or (None, None)))]
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (rows, w, *vectors)):
        z = _PatchConv.apply(rows, w, *vectors, eps, of)
    else:
        z = _forward(rows, w, *vectors, eps, *of)[0]
    if norm_after is not None:
        z = layer_norm.run(z, *norm_after, eps=eps)
    return z.view(x.shape[0], x.shape[1] // k, x.shape[2] // k, z.shape[1]) if layout is None else z


TRITON = _triton.implementation(run)
