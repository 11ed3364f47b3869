"""The public function of LayerNorm."""

from torch import Tensor

from ... import dispatch, plain
from ...constants import constant
from .._shared.checks import autocast_off, check, check_params, has_shape
from . import reference
from .call import LayerNormCall
from .cpu import CPU
from .cuda import CUDA
from .reference import TORCH
from .triton import TRITON

_OP = "layer_norm"


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-6, backend: str | None = None) -> Tensor:
    """LayerNorm over the last dimension: `(x - mean) / sqrt(var + eps) * weight + bias`.

    Upstream's channels_first LayerNorm is this on the permuted view. Statistics in float32 for float16 and bfloat16.

    Args:
        x: `[..., C]`, floating point.
        weight, bias: `[C]`, in x's dtype or float32.
        eps: added to the biased variance, inside the square root.
        backend: one of :data:`convnextv2_fast.dispatch.NAMES`; None takes context, environment, automatic choice.
    Returns:
        `[..., C]` in x's dtype.
    Raises:
        UnsupportedInputError: shapes or dtypes do not fit, or the backend cannot run them.
    """
    if plain.recorded_by_jit():
        dispatch.check_traceable(_OP, backend)
        return reference.layer_norm(x, weight, bias, eps=eps)
    shapes = x.ndim >= 1 and has_shape(weight, x.shape[-1]) and has_shape(bias, x.shape[-1])
    wants = "wants x [..., C] floating point, weight [C], bias [C]"
    check(x.is_floating_point() and shapes, _OP, wants, x=x, weight=weight, bias=bias)
    check_params(_OP, x, weight=weight, bias=bias)
    run = dispatch.choose(dispatch.Spec.of(_OP, x, weight, bias), backend).run
    with autocast_off(x):
        return run(LayerNormCall.of(x, weight, bias, eps=constant(eps)))


dispatch.register(_OP, [CUDA, CPU, TRITON, TORCH])
