"""The public function of depthwise convolution and LayerNorm."""

from torch import Tensor

from ... import dispatch, plain
from ...constants import constant
from ...layouts import Layout
from .._shared.checks import autocast_dtype, autocast_off, check, check_params, check_rows, has_shape, is_depthwise7
from . import reference
from .call import DwconvLayerNormCall
from .cpu import CPU
from .cuda import CUDA
from .reference import TORCH
from .triton import TRITON

_OP = "dwconv_layer_norm"


def dwconv_layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    *,
    eps: float = 1e-6,
    layout: Layout | None = None,
    backend: str | None = None,
) -> Tensor:
    """Depthwise 7x7 cross-correlation with zero padding 3, then LayerNorm over the channels.

    With a sparse layout the convolution is submanifold: only active sites are read and written.

    Args:
        x: `[N, H, W, C]`, any strides; or rows `[T, C]` with `layout`. Float32, float16, bfloat16; float64 on "torch".
        weight: `[C, 1, 7, 7]` (nn.Conv2d), or `[49, C]` with tap = kx*7 + ky (MinkowskiEngine).
        bias: C elements (`[C]` or `[1, C]`), or None.
        ln_weight, ln_bias: `[C]`. Parameters in x's dtype or float32.
        eps: LayerNorm's, inside the square root.
        layout: where rows sit; None for dense `[N, H, W, C]`.
        backend: one of :data:`convnextv2_fast.dispatch.NAMES`; None takes context, environment, automatic choice.
    Returns:
        x's shape, contiguous; under autocast in the autocast dtype, else in x's.
    Raises:
        UnsupportedInputError: shapes or dtypes do not fit, or the backend cannot run them.
    """
    if plain.recorded_by_jit():
        dispatch.check_traceable(_OP, backend)
        return reference.dwconv_layer_norm(x, weight, bias, ln_weight, ln_bias, eps=eps, layout=layout)
    check_rows(_OP, x, layout)
    c = x.shape[-1]
    norm_fits = has_shape(ln_weight, c) and has_shape(ln_bias, c)
    check(
        is_depthwise7(weight, c) and (bias is None or bias.numel() == c) and norm_fits,
        _OP,
        "wants weight [C, 1, 7, 7] or [49, C], bias of C elements, ln_weight and ln_bias [C]",
        x=x,
        weight=weight,
        bias=bias,
        ln_weight=ln_weight,
        ln_bias=ln_bias,
    )
    cast = autocast_dtype(x)
    if cast is not None:
        x = x.to(cast)
    check_params(_OP, x, weight=weight, bias=bias, ln_weight=ln_weight, ln_bias=ln_bias)
    spec = dispatch.Spec.of(_OP, x, weight, bias, ln_weight, ln_bias, layout=layout)
    run = dispatch.choose(spec, backend).run
    with autocast_off(x):
        return run(DwconvLayerNormCall.of(x, weight, bias, ln_weight, ln_bias, eps=constant(eps), layout=layout))


dispatch.register(_OP, [CUDA, CPU, TRITON, TORCH])
