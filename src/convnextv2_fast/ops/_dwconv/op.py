"""The public function of the submanifold depthwise convolution."""

from torch import Tensor

from ... import dispatch, plain
from ...layouts import Layout
from .._shared.checks import autocast_dtype, autocast_off, check, check_params, check_rows, is_depthwise7
from . import reference
from .call import DwconvCall
from .cpu import CPU
from .cuda import CUDA
from .reference import TORCH
from .triton import TRITON

_OP = "sparse_dwconv"


def sparse_dwconv(
    x: Tensor, kernel: Tensor, bias: Tensor | None, *, layout: Layout, backend: str | None = None
) -> Tensor:
    """Depthwise 7x7 cross-correlation over active sites only; outputs at the input's sites.

    Args:
        x: rows `[T, C]`.
        kernel: `[49, C]` with tap = kx*7 + ky (MinkowskiEngine's order), or `[C, 1, 7, 7]`.
        bias: C elements (`[C]` or `[1, C]`), or None.
        layout: where the rows sit, any of :mod:`convnextv2_fast.layouts`.
        backend: one of :data:`convnextv2_fast.dispatch.NAMES`; None takes context, environment, automatic choice.
    Returns:
        `[T, C]`; under autocast in the autocast dtype, else in x's.
    Raises:
        UnsupportedInputError: shapes or dtypes do not fit, or the backend cannot run them.
    """
    if plain.recorded_by_jit():
        dispatch.check_traceable(_OP, backend)
        return reference.sparse_dwconv(x, kernel, bias, layout=layout)
    check(x.ndim == 2, _OP, "wants rows [T, C] and their layout", x=x)
    check_rows(_OP, x, layout)
    fits = is_depthwise7(kernel, x.shape[1]) and (bias is None or bias.numel() == x.shape[1])
    check(fits, _OP, "wants kernel [49, C] or [C, 1, 7, 7] and bias of C elements", x=x, kernel=kernel, bias=bias)
    cast = autocast_dtype(x)
    if cast is not None:
        x = x.to(cast)
    check_params(_OP, x, kernel=kernel, bias=bias)
    run = dispatch.choose(dispatch.Spec.of(_OP, x, kernel, bias, layout=layout), backend).run
    with autocast_off(x):
        return run(DwconvCall.of(x, kernel, bias, layout=layout))


dispatch.register(_OP, [CUDA, CPU, TRITON, TORCH])
