"""A whole block: the ops dwconv_layer_norm and mlp_grn with the residual. For inference on the CPU it is one operator,
which saves the checks of two and keeps the activations between them in the cache."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ... import dispatch, library
from .._dwconv_layer_norm import dwconv_layer_norm
from .._dwconv_layer_norm.native import CPU as DWCONV_LAYER_NORM
from .._mlp_grn import mlp_grn
from .._mlp_grn.cpu import CPU as MLP_GRN
from .._shared import cpu as _cpu
from .._shared import packed as _kept
from .._shared.checks import as_matrix

_PARAMETERS = (
    "Tensor kernel, Tensor bias, Tensor ln_weight, Tensor ln_bias, Tensor w1, Tensor b1, Tensor gamma, Tensor beta, "
    "Tensor w2, Tensor b2, Tensor? layer_scale"
)


def _pack_fake(*_: Any) -> Tensor:
    raise NotImplementedError("block_cpu_pack: its size depends on the instruction set; it is not for tracing")


def _forward_fake(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((0,), dtype=torch.float32)


library.define(f"block_cpu_pack({_PARAMETERS}, bool bfloat16=False) -> Tensor", _pack_fake)
library.define(
    f"block_cpu_fwd(Tensor x, Tensor packed, {_PARAMETERS}, float ln_eps, float grn_eps) "
    "-> (Tensor y, Tensor repacked)",
    _forward_fake,
)
# Contiguous x [N, H, W, C]; kernel [C, 1, 7, 7], w1 [K, C], w2 [C, K], vectors of any shape. No autograd.
# layer_scale: C elements, folded into w2 and b2 as they are packed.
# bfloat16: packs for x in bfloat16.
_pack = torch.ops.convnextv2_fast.block_cpu_pack.default
_forward = torch.ops.convnextv2_fast.block_cpu_fwd.default
_missing = library.why_not("cpu") is not None


def run(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    w2: Tensor,
    b2: Tensor,
    *,
    layer_scale: Tensor | None = None,
    row_scale: Callable[[Tensor], Tensor | None] | None = None,
    ln_eps: float = 1e-6,
    grn_eps: float = 1e-6,
) -> Tensor:
    """`x + row_scale * layer_scale * MLP(LayerNorm(dwconv(x)))`, the ConvNeXt block; x and result `[N, H, W, C]`.

    Args:
        kernel, bias, ln_weight, ln_bias, ln_eps: as :func:`convnextv2_fast.ops.dwconv_layer_norm`.
        w1, b1, gamma, beta, w2, b2, layer_scale, grn_eps: as :func:`convnextv2_fast.ops.mlp_grn`.
        row_scale: called with what the MLP reads, `[N, H, W, C]`, draws drop path's factors `[N]`.
    """
    if row_scale is None and bias is not None and _applies(x):
        y = _infer(x, kernel, bias, ln_weight, ln_bias, w1, b1, gamma, beta, w2, b2, layer_scale, ln_eps, grn_eps)
        if y is not None:
            return y
    u = dwconv_layer_norm(x, kernel, bias, ln_weight, ln_bias, eps=ln_eps)
    scale = None if row_scale is None else row_scale(u)
    return mlp_grn(u, w1, b1, gamma, beta, w2, b2, residual=x, row_scale=scale, layer_scale=layer_scale, eps=grn_eps)


def _applies(x: Tensor) -> bool:
    """Whether one operator can replace the two ops: inference on the CPU, no other backend asked for, no autocast."""
    return not (
        _missing
        or torch.is_grad_enabled()
        or x.device.type != "cpu"
        or x.dtype not in _cpu.DTYPES
        or type(x) is not Tensor
        or not dispatch.free_for("cpu", "dwconv_layer_norm", "mlp_grn")
        or MLP_GRN not in dispatch.implementations("mlp_grn")  # another was registered in its place
        or DWCONV_LAYER_NORM not in dispatch.implementations("dwconv_layer_norm")
        or torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
    )


def _infer(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    w2: Tensor,
    b2: Tensor,
    layer_scale: Tensor | None,
    ln_eps: float,
    grn_eps: float,
) -> Tensor | None:
    """Returns the block's result, or None if packed weights cannot be kept."""
    w1, w2 = as_matrix(w1), as_matrix(w2)
    if gamma is None or beta is None:
        gamma = beta = _zeros(w1.shape[0])
    parameters = (kernel, bias, ln_weight, ln_bias, w1, b1, gamma, beta, w2, b2, layer_scale)
    packed = _kept.copy_of(_pack, *parameters, options=(_kept.in_pairs(x.dtype),))
    if packed is None:
        return None
    y, repacked = _forward(x.contiguous(), packed, *parameters, ln_eps, grn_eps)
    _kept.replace(packed, repacked)
    return y


@functools.cache
def _zeros(count: int) -> Tensor:
    """Returns zeros in place of missing GRN parameters: always the same tensor, so that packed weights stay valid."""
    with torch.inference_mode(False):
        return torch.zeros(count)
