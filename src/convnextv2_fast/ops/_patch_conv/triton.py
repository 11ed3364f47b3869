"""Patch convolution on Triton kernels, which are imported at the first call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import library
from .. import _triton
from .._layer_norm import triton as layer_norm
from .._layer_norm.call import LayerNormCall
from .._shared.checks import rows_of
from . import autograd
from .call import Kernels, PatchConvCall, blocks_fake, scatter_fake
from .gather import GATHER, Gather
from .products import by_torch
from .weights import matrix

_NORM = "Tensor? norm_weight, Tensor? norm_bias"


def _kernels():
    from . import triton_kernels

    return triton_kernels


def _forward_fake(x: Tensor, w: Tensor, bias: Any, norm_weight: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    sources = 0 if norm_weight is None else x.shape[0]
    mean, rstd = (x.new_empty((sources,), dtype=torch.float32) for _ in range(2))
    return x.new_empty((Gather(*args[2:]).rows, w.shape[1])), mean, rstd


def _blocks_fake(x: Tensor, weight: Any, bias: Any, mean: Tensor, rstd: Tensor, *gather: Any) -> Tensor:
    return blocks_fake(x, weight, bias, 0.0, *gather)


_forward_operator = library.define(
    f"triton_patch_conv_fwd(Tensor x, Tensor w, Tensor? bias, {_NORM}, float eps, {GATHER}) "
    "-> (Tensor z, Tensor mean, Tensor rstd)",
    _forward_fake,
    lambda *args: _kernels().forward(*args),
)
_blocks_operator = library.define(
    f"triton_patch_conv_blocks(Tensor x, {_NORM}, Tensor mean, Tensor rstd, {GATHER}) -> Tensor",
    _blocks_fake,
    lambda *args: _kernels().blocks(*args),
)
scatter = library.define(
    f"triton_patch_conv_scatter(Tensor blocks, SymInt sources, bool covers, {GATHER}) -> Tensor",
    scatter_fake,
    lambda *args: _kernels().scatter(*args),
)


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    gather: Gather,
) -> tuple[Tensor, Tensor, Tensor]:
    return _forward_operator(x, weight, bias, norm_weight, norm_bias, eps, *gather)


def blocks(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    gather: Gather,
    *statistics: Tensor,
) -> Tensor:
    return _blocks_operator(x, norm_weight, norm_bias, *statistics, *gather)


KERNELS = Kernels(forward, *by_torch(blocks, scatter), layer_norm.KERNELS)


def run(call: PatchConvCall) -> Tensor:
    weight = matrix(call.weight).to(call.x.dtype).contiguous()
    z = autograd.convolve(KERNELS, call, rows_of(call.x), weight)
    norm_weight, norm_bias = call.norm_after
    if norm_weight is not None and norm_bias is not None:
        z = layer_norm.run(LayerNormCall(z, norm_weight, norm_bias, call.eps))
    return call.shaped(z)


TRITON = _triton.implementation(run)
