"""LayerNorm over the channels of each row, in plain PyTorch."""

import torch.nn.functional as F
from torch import Tensor

from .._shared.checks import statistics_dtype


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-6) -> Tensor:
    """`(x - mean) / sqrt(var + eps) * weight + bias` over the last dimension (biased variance).

    x `[..., C]`; weight, bias `[C]`. Statistics in float32 for float16 and bfloat16 (float64 stays float64)."""
    wide = statistics_dtype(x)
    return F.layer_norm(x.to(wide), (x.shape[-1],), weight.to(wide), bias.to(wide), eps).to(x.dtype)
