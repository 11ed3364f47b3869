"""Stem and downsampling of any library: a k x k convolution of stride k and the LayerNorm after or before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from .. import ops
from ..models.utils import touched
from ._swap import Inspection


def why_not(conv: nn.Module, norm: Any, norms: Sequence[type]) -> str | None:
    """Why the pair runs as modules; None if it runs as one op. `norms`: classes that compute LayerNorm over C."""
    if type(conv) is not nn.Conv2d:
        return f"the convolution is a {type(conv).__name__}"
    same = conv.kernel_size == conv.stride and conv.kernel_size[0] == conv.kernel_size[1]
    if not same or conv.padding not in ((0, 0), "valid") or conv.dilation != (1, 1) or conv.groups != 1:
        return "the convolution's windows overlap, or it is padded, dilated or grouped"
    if type(norm) not in norms:
        return f"the norm is a {type(norm).__name__}"
    if norm.weight is None or norm.bias is None:
        return "LayerNorm has no weight or no bias"
    for m, name in ((conv, "the convolution"), (norm, "LayerNorm")):
        what = touched(m)
        if what is not None:
            return f"{name} {what}"
    return None


def inspect(conv: nn.Module, norm: nn.Module, norms: Sequence[type]) -> Inspection:
    reason = why_not(conv, norm, norms)
    return Inspection(("patch_conv",), ()) if reason is None else Inspection((), (f"not patch_conv: {reason}",))


def run(x: Tensor, conv: Any, norm: Any, norms: Sequence[type], *, norm_first: bool) -> Tensor | None:
    """Maps x `[N, Cin, H, W]` to `[N, Cout, H//k, W//k]` with channels_last strides; None if it must run as modules."""
    if _has_any_global_hook() or why_not(conv, norm, norms) is not None:
        return None
    pair = (norm.weight, norm.bias)
    before, after = (pair, None) if norm_first else (None, pair)
    rows = x.permute(0, 2, 3, 1)
    y = ops.patch_conv(rows, conv.weight, conv.bias, norm_before=before, norm_after=after, eps=norm.eps)
    return y.permute(0, 3, 1, 2)
