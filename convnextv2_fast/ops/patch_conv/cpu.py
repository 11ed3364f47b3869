"""Patch convolution on the CPU: blocks gathered, and normalised, on their way into a product with packed weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import library
from ...layouts import Layout
from .. import _cpu, _kept
from .._common import in_one_dtype
from .gather import GATHER, Gather

_ARGUMENTS = (
    "(Tensor x, Tensor weight, Tensor? bias, Tensor? before_weight, Tensor? before_bias, Tensor? after_weight, "
    f"Tensor? after_bias, float eps, {GATHER}"
)


def _pack_fake(weight: Tensor, bias: Tensor | None) -> Tensor:
    raise NotImplementedError("patch_conv_cpu_pack: its size depends on the instruction set; it is not for tracing")


def _forward_fake(x: Tensor, weight: Tensor, bias: Any, bw: Any, bb: Any, aw: Any, ab: Any, eps: float, *of: Any) -> Tensor:
    return x.new_empty((Gather(*of[:5]).rows, weight.shape[0] if weight.ndim == 4 else weight.shape[2]))


library.define("patch_conv_cpu_pack(Tensor weight, Tensor? bias) -> Tensor", _pack_fake)
library.define(f"patch_conv_cpu_fwd{_ARGUMENTS}, Tensor? packed) -> Tensor", _forward_fake)
library.define(f"patch_conv_cpu_kept{_ARGUMENTS}) -> Tensor", _forward_fake, f"{__name__}:forward_on_kept_weights")
# x [N, H, W, Cin] of any strides, or contiguous [S, Cin], see gather.py; weight and bias as the public op has them, the
# norms' vectors contiguous; parameters in x's dtype or float32. Returns [rows, Cout]. No autograd.
_pack = torch.ops.convnextv2_fast.patch_conv_cpu_pack.default
_forward = torch.ops.convnextv2_fast.patch_conv_cpu_fwd.default
_kept_forward = torch.ops.convnextv2_fast.patch_conv_cpu_kept.default


def forward_on_kept_weights(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    """The forward on weights that are packed once for as long as they do not change."""
    return _forward(x, weight, bias, *rest, _kept.copy_of(_pack, weight, bias))


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
    forward = _kept_forward if torch.compiler.is_compiling() else forward_on_kept_weights
    y = forward(x if x.ndim == 4 else x.contiguous(), weight, flat, *norms, eps, *of)
    return y.view(x.shape[0], x.shape[1] // k, x.shape[2] // k, y.shape[1]) if layout is None else y


CPU = _cpu.implementation(run)
