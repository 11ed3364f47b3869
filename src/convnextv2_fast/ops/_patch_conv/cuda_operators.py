"""The operators of csrc/torch/patch_conv_cuda.cpp and patch_conv_backward_cuda.cpp."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import library
from .._shared.cuda import bytes_of
from .gather import GATHER, Gather


def in_form(weight: Tensor) -> bool:
    """Whether a weight lies in memory as the product takes it: as `[Cout, k, k, Cin]`, or with one tap."""
    if weight.ndim == 3:
        return weight.shape[0] == 1
    _, c, k, _ = weight.shape
    if k == 1:
        return True
    wanted = (k * k * c, 1, k * c, c)
    return all(
        size == 1 or have == want for size, have, want in zip(weight.shape, weight.stride(), wanted, strict=True)
    )


def copies_bytes(x: Tensor, weight: Tensor, bias: Tensor | None) -> int:
    """The size of the copies that forward makes and backward takes, see `PatchConvWeights` in
    csrc/torch/patch_conv_cuda.h: the weight and the bias in x's dtype."""
    pieces = []
    if weight.dtype != x.dtype or not in_form(weight):
        pieces.append(x.dtype.itemsize * weight.numel())
    if bias is not None and bias.dtype != x.dtype:
        pieces.append(x.dtype.itemsize * bias.shape[0])
    return bytes_of(pieces)


def _channels(weight: Tensor) -> int:
    return weight.shape[0] if weight.ndim == 4 else weight.shape[2]


def _like(x: Tensor, n: int, h: int, w: int, c: int, planes: bool) -> Tensor:
    if not planes:
        return x.new_empty((n, h, w, c))
    return x.new_empty_strided((n, c, h, w), (h * w * c, 1, w * c, c))


def _forward_fake(x: Tensor, weight: Tensor, *args: Any) -> Tensor:
    planes, *rest = args[6:]
    gather, c = Gather(*rest), _channels(weight)
    if x.ndim != 4 or gather.table is not None:
        return x.new_empty((gather.rows, c))
    return _like(x, x.shape[0], gather.height // gather.k, gather.width // gather.k, c, planes)


def _forward_train_fake(x: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> tuple[Tensor, ...]:
    after, rows = args[2], args[7]
    z = x.new_empty((0 if after is None else rows, _channels(weight)))
    copies = x.new_empty((copies_bytes(x, weight, bias),), dtype=torch.uint8)
    return _forward_fake(x, weight, bias, *args), z, copies


def _backward_fake(dout: Tensor, x: Tensor, z: Any, copies: Tensor, weight: Tensor, *args: Any) -> tuple[Tensor, ...]:
    wanted, planes = args[3], args[5]
    dtypes = [None, torch.float32, x.dtype]
    kinds = [dtypes[wanted >> 2 * i & 3] for i in range(7)]
    dx = x.new_empty((0,))
    if kinds[0] is not None:
        n, *chw = x.shape
        dx = _like(x, n, chw[1], chw[2], chw[0], True) if planes else x.new_empty(x.shape)
    dweight = x.new_empty((0,), dtype=torch.float32)
    if kinds[1] is not None:
        dweight = x.new_empty_strided(weight.shape, weight.stride(), dtype=kinds[1])
    c_in, c_out = weight.shape[1], _channels(weight)
    vectors = []
    for c, kind in zip((c_out, c_in, c_in, c_out, c_out), kinds[2:], strict=True):
        vectors.append(x.new_empty((0 if kind is None else c,), dtype=kind or torch.float32))
    return dx, dweight, *vectors


_NORM = "Tensor? {0}_weight, Tensor? {0}_bias"
_PLACES = f"float eps, bool planes, {GATHER}"
_ARGUMENTS = f"Tensor x, Tensor weight, Tensor? bias, {_NORM.format('before')}, {_NORM.format('after')}, {_PLACES}"

# Contiguous x [N, H, W, Cin] or [S, Cin], or with `planes` [N, Cin, H, W] in channels_last; parameters in x's dtype or
# float32, the weight contiguous or in channels_last, as the public op has it, vectors [C], a norm's in one dtype. The
# result is like x where that has a plane and there is no table, else [T', Cout]. No autograd.
forward = library.define(f"patch_conv_cuda_fwd({_ARGUMENTS}) -> Tensor", _forward_fake)
# Beside the result what backward wants: the input of the norm after the convolution [T', Cout], if there is one, and
# copies of the weight.
forward_train = library.define(
    f"patch_conv_cuda_fwd_train({_ARGUMENTS}) -> (Tensor out, Tensor z, Tensor copies)", _forward_train_fake
)
# Gradients of x and the six parameters, like them in shape and strides. `wanted`: two bits for each, from the lowest:
# 0 no, 1 in float32, 2 in x's dtype; what is not wanted is empty.
backward = library.define(
    f"patch_conv_cuda_bwd(Tensor dout, Tensor x, Tensor? z, Tensor copies, Tensor weight, {_NORM.format('before')}, "
    f"Tensor? after_weight, int wanted, {_PLACES}) -> (Tensor dx, Tensor dweight, Tensor dbias, "
    "Tensor dbefore_weight, Tensor dbefore_bias, Tensor dafter_weight, Tensor dafter_bias)",
    _backward_fake,
)
