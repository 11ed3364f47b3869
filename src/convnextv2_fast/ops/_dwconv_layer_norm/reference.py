"""Depthwise 7x7 convolution, then LayerNorm over channels, in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from ...layouts import Layout
from ...spec import Implementation, always
from .._dwconv.reference import dwconv, sparse_dwconv
from .._layer_norm.reference import layer_norm
from .call import DwconvLayerNormCall


def dwconv_layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    *,
    eps: float = 1e-6,
    layout: Layout | None = None,
) -> Tensor:
    """Dense `[N, H, W, C]`, or rows `[T, C]` with their layout, where only active sites are read and written."""
    if x.ndim == 2:
        assert layout is not None
        z = sparse_dwconv(x, weight, bias, layout=layout)
    else:
        z = dwconv(x, weight, bias)
    return layer_norm(z, ln_weight, ln_bias, eps=eps)


def run(call: DwconvLayerNormCall) -> Tensor:
    return dwconv_layer_norm(*call[:5], eps=call.eps, layout=call.layout)


TORCH = Implementation("torch", run, always)
