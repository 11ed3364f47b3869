"""Patch convolution on the CPU, csrc/cpu/patch_conv: blocks are gathered, and normalised, on their way into a product
with packed weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import library
from .._layer_norm import cpu as layer_norm
from .._layer_norm.call import NATIVE as LAYER_NORM
from .._layer_norm.call import LayerNormCall
from .._shared import cpu, packed
from .._shared.checks import any_needs_grad
from . import autograd, weights
from .call import Kernels, PatchConvCall
from .gather import GATHER, Gather

_ARGUMENTS = (
    "(Tensor x, Tensor weight, Tensor? bias, Tensor? before_weight, Tensor? before_bias, Tensor? after_weight, "
    f"Tensor? after_bias, float eps, {GATHER}"
)


def _pack_fake(weight: Tensor, bias: Tensor | None, bfloat16: bool = False) -> Tensor:
    raise NotImplementedError("patch_conv_cpu_pack: its size depends on the instruction set; it is not for tracing")


def _infer_fake(x: Tensor, weight: Tensor, *args: Any) -> Tensor:
    return x.new_empty((Gather(*args[6:11]).rows, weight.shape[0] if weight.ndim == 4 else weight.shape[2]))


def _forward_fake(*args: Any) -> tuple[Tensor, Tensor]:
    return _infer_fake(*args), args[0].new_empty((0,), dtype=torch.float32)


def _dparams_fake(dz: Tensor, x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    depth = Gather(*args[3:]).k ** 2 * x.shape[1]
    dweight, dbias = (dz.new_empty(shape, dtype=torch.float32) for shape in ((dz.shape[1], depth), (dz.shape[1],)))
    return dweight, dbias


def _dx_fake(dz: Tensor, weight: Tensor, sources: int, covers: bool, *gather: Any) -> Tensor:
    return dz.new_empty((sources, weight.shape[1] // Gather(*gather).k ** 2))


# csrc/torch/patch_conv_cpu.cpp. x [N, H, W, Cin] of any strides, or contiguous [S, Cin], see gather.py; weight and bias
# as the public op has them, parameters in x's dtype or float32. `packed`: of patch_conv_cpu_pack, bfloat16 where x is.
# Returns [rows, Cout], and `repacked`: a copy to take the place of `packed`, if that is no longer that of the weights,
# else empty. No autograd.
_pack = library.define("patch_conv_cpu_pack(Tensor weight, Tensor? bias, bool bfloat16=False) -> Tensor", _pack_fake)
_forward = library.define(
    f"patch_conv_cpu_fwd{_ARGUMENTS}, Tensor? packed) -> (Tensor z, Tensor repacked)", _forward_fake
)
# Contiguous dz [rows, Cout] and x [S, Cin] -> float32 [Cout, k * k * Cin], columns (ky, kx, cin), and [Cout].
# Contiguous dz and a weight [Cout, k * k * Cin] in these columns' order -> [S, Cin]. Sums are in an order that follows
# from the shapes alone.
_dparams = library.define(
    f"patch_conv_cpu_dparams(Tensor dz, Tensor x, Tensor? norm_weight, Tensor? norm_bias, float eps, {GATHER}) "
    "-> (Tensor dweight, Tensor dbias)",
    _dparams_fake,
)
_dx = library.define(
    f"patch_conv_cpu_dx(Tensor dz, Tensor weight, SymInt sources, bool covers, {GATHER}) -> Tensor", _dx_fake
)


def infer(x: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
    """Runs the forward pass with packed weights, which are held while the weights live."""
    pairs = packed.in_pairs(x.dtype)
    (z,) = packed.run(
        lambda copy: _forward(x, weight, bias, *args, copy),
        lambda: _pack(weight, bias, pairs),
        weight,
        *("patch_conv", pairs),
    )
    return z


# For torch.compile, which cannot trace the look-up of a packed copy.
_infer = library.define(f"patch_conv_cpu_infer{_ARGUMENTS}) -> Tensor", _infer_fake, infer)


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    gather: Gather,
) -> tuple[Tensor]:
    return (_forward(x, weight, bias, norm_weight, norm_bias, None, None, eps, *gather, None)[0],)


def parameter_gradients(
    dz: Tensor,
    x: Tensor,
    weight: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    gather: Gather,
    *_: Any,
) -> tuple[Tensor, Tensor]:
    dweight, dbias = _dparams(dz, x, norm_weight, norm_bias, eps, *gather)
    return weights.from_rows(dweight, weight), dbias


def input_gradient(dz: Tensor, weight: Tensor, sources: int, covers: bool, gather: Gather) -> Tensor:
    return _dx(dz, weights.transposed(weight).contiguous(), sources, covers, *gather)


KERNELS = Kernels(forward, parameter_gradients, input_gradient, LAYER_NORM)


def run(call: PatchConvCall) -> Tensor:
    x = call.x if call.x.ndim == 4 else call.x.contiguous()
    if not any_needs_grad(x, call.weight, call.bias, *call.norm_before, *call.norm_after):
        run_packed = _infer if torch.compiler.is_compiling() else infer
        norms = (*call.norm_before, *call.norm_after)
        return call.shaped(run_packed(x, call.weight, call.bias, *norms, call.eps, *call.gather))
    z = autograd.convolve(KERNELS, call, x, call.weight)
    weight, bias = call.norm_after
    if weight is not None and bias is not None:
        z = layer_norm.run(LayerNormCall(z, weight, bias, call.eps))
    return call.shaped(z)


CPU = cpu.implementation(run)
