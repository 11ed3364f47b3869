"""A whole block in one call, for inference on the CPU: dwconv_layer_norm, mlp_grn and the residual, without the cost of
two operators' checks and with the activations between them in the cache. Elsewhere a block is those two ops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import dispatch, library
from .. import _cpu, _kept
from ..dwconv_layer_norm import native as dwconv_layer_norm
from ..mlp_grn import cpu as mlp_grn

_PARAMETERS = (
    "Tensor w1, Tensor kernel, Tensor bias, Tensor ln_weight, Tensor ln_bias, Tensor b1, Tensor gamma, Tensor beta, "
    "Tensor w2, Tensor b2"
)


def _pack_fake(*_: Any) -> Tensor:
    raise NotImplementedError("block_cpu_pack: its size depends on the instruction set; it is not for tracing")


def _forward_fake(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


library.define(f"block_cpu_pack({_PARAMETERS}, bool bfloat16=False) -> Tensor", _pack_fake)
library.define(
    f"block_cpu_fwd(Tensor x, Tensor packed, {_PARAMETERS}, float ln_eps, float grn_eps) -> Tensor", _forward_fake
)
# Contiguous x [N, H, W, C]; kernel [C, 1, 7, 7], w1 [K, C], w2 [C, K], vectors of any shape. No autograd.
# bfloat16: packs for x in bfloat16.
_pack = torch.ops.convnextv2_fast.block_cpu_pack.default
_forward = torch.ops.convnextv2_fast.block_cpu_fwd.default
_missing = library.why_not("cpu") is not None


def applies(x: Tensor) -> bool:
    """Whether :func:`infer` stands for the two ops: inference on the CPU, no other backend asked for, no autocast."""
    return not (
        _missing
        or torch.is_grad_enabled()
        or x.device.type != "cpu"
        or x.dtype not in _cpu.DTYPES
        or not dispatch.free_for("cpu", "dwconv_layer_norm", "mlp_grn")
        or mlp_grn.CPU not in dispatch.implementations("mlp_grn")  # another was registered in its place
        or dwconv_layer_norm.CPU not in dispatch.implementations("dwconv_layer_norm")
        or torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
    )


def infer(x: Tensor, *parameters: Tensor, ln_eps: float, grn_eps: float) -> Tensor | None:
    """The block's result for x `[N, H, W, C]`; None where the weights cannot be kept packed.

    `parameters`: w1, kernel, bias, ln_weight, ln_bias, b1, gamma, beta, w2, b2."""
    packed = _kept.copy_of(_pack, *parameters, options=(_kept.in_pairs(x.dtype),))
    if packed is None:
        return None
    return _forward(x.contiguous(), packed, *parameters, ln_eps, grn_eps)
