"""LayerNorm over the channels of each row, in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ... import plain
from ...spec import Implementation, always
from .._shared.checks import statistics_dtype
from .call import LayerNormCall


def run(call: LayerNormCall) -> Tensor:
    """Statistics in float32 for float16 and bfloat16; float64 stays float64."""
    return layer_norm(call.x, call.weight, call.bias, eps=call.eps)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-6) -> Tensor:
    """:func:`convnextv2_fast.ops.layer_norm` in plain PyTorch, without its checks."""
    wide = statistics_dtype(x)
    return F.layer_norm(x.to(wide), (plain.width(weight),), weight.to(wide), bias.to(wide), eps).to(x.dtype)


TORCH = Implementation("torch", run, always)
