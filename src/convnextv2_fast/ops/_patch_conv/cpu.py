"""Patch convolution on the CPU: blocks gathered, and normalised, on their way into a product with packed weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ... import library
from ...layouts import Layout
from .._layer_norm import native as layer_norm
from .._shared import cpu as _cpu
from .._shared import packed as _kept
from .._shared.checks import autocast_off, in_one_dtype
from . import native
from .gather import GATHER, Gather
from .reference import matrix

_ARGUMENTS = (
    "(Tensor x, Tensor weight, Tensor? bias, Tensor? before_weight, Tensor? before_bias, Tensor? after_weight, "
    f"Tensor? after_bias, float eps, {GATHER}"
)


def _pack_fake(weight: Tensor, bias: Tensor | None) -> Tensor:
    raise NotImplementedError("patch_conv_cpu_pack: its size depends on the instruction set; it is not for tracing")


def _forward_fake(
    x: Tensor, weight: Tensor, bias: Any, bw: Any, bb: Any, aw: Any, ab: Any, eps: float, *of: Any
) -> Tensor:
    return x.new_empty((Gather(*of[:5]).rows, weight.shape[0] if weight.ndim == 4 else weight.shape[2]))


library.define("patch_conv_cpu_pack(Tensor weight, Tensor? bias) -> Tensor", _pack_fake)
library.define(
    f"patch_conv_cpu_fwd{_ARGUMENTS}, Tensor? packed) -> (Tensor z, Tensor repacked)",
    lambda x, *args: (_forward_fake(x, *args), x.new_empty((0,), dtype=torch.float32)),
)
library.define(f"patch_conv_cpu_kept{_ARGUMENTS}) -> Tensor", _forward_fake, f"{__name__}:forward_on_kept_weights")
# x [N, H, W, Cin] of any strides, or contiguous [S, Cin], see gather.py; weight and bias as the public op has them, the
# norms' vectors contiguous; parameters in x's dtype or float32. Returns [rows, Cout] and a new copy of the weights in
# the place of a stale one, else [0]. No autograd.
_pack = torch.ops.convnextv2_fast.patch_conv_cpu_pack.default
_forward = torch.ops.convnextv2_fast.patch_conv_cpu_fwd.default
_kept_forward = torch.ops.convnextv2_fast.patch_conv_cpu_kept.default


def forward_on_kept_weights(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    """Runs the forward pass with packed weights, which are kept until the weights change."""
    packed = _kept.copy_of(_pack, weight, bias)
    z, repacked = _forward(x, weight, bias, *rest, packed)
    _kept.replace(packed, repacked)
    return z


class _PatchConv(torch.autograd.Function):
    """Saves x; backward gathers (and normalises) the blocks again, for torch's matrix products."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,  # [N, H, W, Cin] or [S, Cin]
        weight: Tensor,
        bias: Tensor | None,
        norm_weight: Tensor | None,  # [Cin]
        norm_bias: Tensor | None,  # [Cin]
        eps: float,
        of: Gather,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, norm_weight, norm_bias, of.table)
        ctx.of, ctx.covers, ctx.eps = of[1:], of.covers, eps
        ctx.bias_dtype = None if bias is None else bias.dtype
        return _forward(x, weight, bias, norm_weight, norm_bias, None, None, eps, *of, None)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        with autocast_off(dz):  # the products run in the tensors' own types
            return _gradients(ctx, dz.contiguous())


def _gradients(ctx: Any, dz: Tensor) -> tuple[Any, ...]:
    x, weight, norm_weight, norm_bias, table = ctx.saved_tensors
    needs_x, needs_w, needs_bias, *needs_norm = ctx.needs_input_grad[:5]
    rows, dz = x.reshape(-1, x.shape[-1]).contiguous(), dz.to(x.dtype)
    dx = dw = dbias = dnorm_weight = dnorm_bias = None
    if needs_w:
        blocks = native.gather(rows, norm_weight, norm_bias, ctx.eps, table, *ctx.of)
        dw = _weight_gradient(blocks, dz, weight)
    if needs_bias:
        dbias = dz.sum(0, dtype=torch.float32).to(ctx.bias_dtype)
    if needs_x or any(needs_norm):
        dx = native.scatter(dz @ _rows(weight).to(dz.dtype), rows.shape[0], ctx.covers, table, *ctx.of)
        if norm_weight is not None:
            dx, dparams = layer_norm.backward(dx, rows, norm_weight, ctx.eps)
            dnorm_weight, dnorm_bias = dparams[0].to(norm_weight.dtype), dparams[1].to(norm_bias.dtype)
        dx = dx.view(x.shape)
    return dx, dw, dbias, dnorm_weight, dnorm_bias, None, None


def _rows(weight: Tensor) -> Tensor:
    """A weight as `[Cout, k*k*Cin]`, columns (ky, kx, cin): a filter's numbers stay together, so copying is cheap."""
    return weight.permute(0, 2, 3, 1).flatten(1) if weight.ndim == 4 else matrix(weight).t()


def _weight_gradient(blocks: Tensor, dz: Tensor, weight: Tensor) -> Tensor:
    """The weight's gradient in the weight's own form, from blocks `[T, k*k*Cin]` and dz `[T, Cout]`. The order of the
    product is chosen so that little is left to rearrange."""
    if weight.ndim == 4:
        k, rows = weight.shape[2], dz.t() @ blocks
        return rows.view(weight.shape[0], k, k, weight.shape[1]).permute(0, 3, 1, 2).to(weight.dtype).contiguous()
    k, columns = round(weight.shape[0] ** 0.5), blocks.t() @ dz
    return columns.view(k, k, *weight.shape[1:]).transpose(0, 1).reshape(weight.shape).to(weight.dtype)


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
    """:func:`convnextv2_fast.ops.patch_conv` on CPU kernels."""
    k = weight.shape[-1] if weight.ndim == 4 else round(weight.shape[0] ** 0.5)
    of = Gather.of(x, k, layout)
    norms = (*in_one_dtype(*(norm_before or (None, None))), *in_one_dtype(*(norm_after or (None, None))))
    flat = None if bias is None else bias.reshape(-1).contiguous()
    x = x if x.ndim == 4 else x.contiguous()
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, flat, *norms)):
        y = _PatchConv.apply(x, weight, flat, *norms[:2], eps, of)
        if norm_after is not None:
            y = layer_norm.run(y, *norm_after, eps=eps)
    else:
        forward = _kept_forward if torch.compiler.is_compiling() else forward_on_kept_weights
        y = forward(x, weight, flat, *norms, eps, *of)
    return y.view(x.shape[0], x.shape[1] // k, x.shape[2] // k, y.shape[1]) if layout is None else y


CPU = _cpu.implementation(run)
