"""The operators of csrc/torch/block_cuda.cpp and block_backward_cuda.cpp."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import library
from .._shared.cuda import bytes_of


def copies_bytes(x: Tensor, kernel: Tensor, w1: Tensor, w2: Tensor) -> int:
    """The size of the weights' copies that forward makes and backward takes, see `BlockWeights` in
    csrc/torch/block_cuda.h: taps as float32 `[49, C]`, matrices in x's dtype."""

    pieces = [x.dtype.itemsize * w.numel() for w in (w1, w2) if w.dtype != x.dtype]
    if kernel.ndim != 2 or kernel.dtype != torch.float32:
        pieces.append(4 * kernel.numel())
    return bytes_of(pieces)


def _like(x: Tensor, dtype: torch.dtype, planes: bool) -> Tensor:
    if not planes:
        return x.new_empty(x.shape, dtype=dtype)
    _, c, h, w = x.shape
    return x.new_empty_strided(x.shape, (h * w * c, 1, w * c, c), dtype=dtype)


def _forward_fake(x: Tensor, *args: Any) -> Tensor:
    residual, planes = args[10], args[15:16] == (True,)
    return _like(x, (x if residual is None else residual).dtype, planes)


def _forward_train_fake(x: Tensor, kernel: Tensor, *args: Any) -> tuple[Tensor, ...]:
    w1, w2, planes = args[3], args[7], args[14:15] == (True,)
    c = w2.shape[0]
    rows, groups = (x.numel() // c, c), x.shape[0] if planes else args[19]
    norm = x.new_empty((groups, w1.shape[0]), dtype=torch.float32)
    weights = x.new_empty((copies_bytes(x, kernel, w1, w2),), dtype=torch.uint8)
    return _forward_fake(x, kernel, *args), x.new_empty(rows), x.new_empty(rows), norm, weights


def _backward_fake(dout: Tensor, x: Tensor, z: Tensor, u: Tensor, norm: Tensor, weights: Tensor, *args: Any) -> Any:
    kernel, ln_weight, w1, b1, gamma, beta, w2, _, _, wanted, _, _, _, *rest = args
    c = (w2.shape[0],)
    shapes = (kernel.shape, c, ln_weight.shape, c, w1.shape, b1.shape, gamma.shape, beta.shape, w2.shape, c)
    found = [_like(x, x.dtype, rest[:1] == [True]) if wanted & 3 else x.new_empty((0,))]
    for i, shape in enumerate(shapes, 1):
        code = wanted >> 2 * i & 3
        found.append(x.new_empty(shape if code else (0,), dtype=x.dtype if code == 2 else torch.float32))
    return tuple(found)


_PARAMETERS = (
    "Tensor kernel, Tensor? bias, Tensor ln_weight, Tensor ln_bias, Tensor w1, Tensor b1, Tensor gamma, Tensor beta, "
    "Tensor w2, Tensor b2"
)
# `planes`: activations are [N, C, H, W] in channels_last, and what follows is not looked at.
_PLACES = (
    "float ln_eps, float grn_eps, bool mma, bool planes=False, SymInt h=0, SymInt w=0, Tensor? site_map=None, "
    "SymInt rows_per_group=0, SymInt groups=0, Tensor? row_group=None, Tensor? offsets=None"
)
_ARGUMENTS = f"Tensor x, {_PARAMETERS}, Tensor? residual, Tensor? row_scale, {_PLACES}"

# Contiguous x [N, H, W, C] or [T, C], or planes; the parameters in x's dtype or float32, contiguous, vectors of any
# shape; residual in float32, None: x; row_scale float32 [R]. The result is in the residual's dtype. No autograd.
forward = library.define(f"block_cuda_fwd({_ARGUMENTS}) -> Tensor", _forward_fake)
# Beside the result what backward wants: LayerNorm's input and output [T, C], the groups' norms, the weights' copies.
forward_train = library.define(
    f"block_cuda_fwd_train({_ARGUMENTS}) -> (Tensor out, Tensor z, Tensor u, Tensor norm, Tensor weights)",
    _forward_train_fake,
)
# Gradients of x and the ten parameters, that of x with the residual's where the residual is x. `wanted`: two bits for
# each, from the lowest: 0 no, 1 in float32, 2 in x's dtype; what is not wanted is empty. Those of bias, ln_bias and b2
# are [C], the others have their parameter's shape.
backward = library.define(
    "block_cuda_bwd(Tensor dout, Tensor x, Tensor z, Tensor u, Tensor norm, Tensor weights, Tensor kernel, "
    "Tensor ln_weight, Tensor w1, Tensor b1, Tensor gamma, Tensor beta, Tensor w2, Tensor? row_scale, "
    f"bool residual_is_x, int wanted, {_PLACES}) -> (Tensor dx, Tensor dkernel, Tensor dbias, Tensor dln_weight, "
    "Tensor dln_bias, Tensor dw1, Tensor db1, Tensor dgamma, Tensor dbeta, Tensor dw2, Tensor db2)",
    _backward_fake,
)
