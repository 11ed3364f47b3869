"""The public function of the patch convolution."""

from typing import Any

from torch import Tensor

from ... import dispatch, plain
from ...constants import constant
from ...layouts import Layout
from .._shared.checks import autocast_dtype, autocast_off, check, check_params, has_shape
from . import reference
from .call import PatchConvCall
from .cpu import CPU
from .cuda import CUDA
from .reference import TORCH
from .triton import TRITON
from .weights import edge

_OP = "patch_conv"


def patch_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    norm_before: tuple[Tensor, Tensor] | None = None,
    norm_after: tuple[Tensor, Tensor] | None = None,
    eps: float = 1e-6,
    layout: Layout | None = None,
    backend: str | None = None,
) -> Tensor:
    """k x k convolution of stride k, with LayerNorm before (downsampling) or after (stem) it.

    Three forms, by x and layout:
      * x `[N, H, W, Cin]`, no layout: dense, `[N, H//k, W//k, Cout]` (a ragged edge is cut off, as by nn.Conv2d);
      * x `[N, H, W, Cin]` with the layout of the *result*: only the active sites are computed, `[T, Cout]`;
      * rows x `[T, Cin]` with their layout: `[T', Cout]`, the rows of ``layout.coarsen(k)[0]``. A coarse site is active
        when any of its k*k children is; absent children count as zero after `norm_before`.

    Args:
        weight: `[Cout, Cin, k, k]` (nn.Conv2d), or `[k*k, Cin, Cout]` with tap = kx*k + ky (MinkowskiEngine).
        bias: Cout elements, or None.
        norm_before: LayerNorm `(weight [Cin], bias [Cin])` of x.
        norm_after: LayerNorm `(weight [Cout], bias [Cout])` of the result.
        eps: of either LayerNorm.
        backend: one of :data:`convnextv2_fast.dispatch.NAMES`; None takes context, environment, automatic choice.
    Returns:
        As above; under autocast in the autocast dtype, else in x's.
    Raises:
        UnsupportedInputError: shapes or dtypes do not fit, or the backend cannot run them.
    """
    if plain.recorded_by_jit():
        dispatch.check_traceable(_OP, backend)
        options: dict[str, Any] = dict(norm_before=norm_before, norm_after=norm_after, eps=eps, layout=layout)
        return reference.patch_conv(x, weight, bias, **options)
    check(x.is_floating_point(), _OP, "x must be floating point", x=x)
    check(
        x.ndim == 4 or (x.ndim == 2 and layout is not None), _OP, "wants [N, H, W, Cin], or [T, Cin] with layout=", x=x
    )
    wants = "wants x [..., Cin], weight [Cout, Cin, k, k] or [k*k, Cin, Cout], bias of Cout elements"
    check(weight.ndim in (3, 4) and weight.numel() > 0, _OP, wants, x=x, weight=weight, bias=bias)
    k = edge(weight)
    c_in, c_out = (weight.shape[1], weight.shape[0]) if weight.ndim == 4 else (weight.shape[-2], weight.shape[-1])
    square = weight.shape[2:] == (k, k) if weight.ndim == 4 else weight.ndim == 3 and weight.shape[0] == k * k
    check(
        square and x.shape[-1] == c_in and (bias is None or bias.numel() == c_out),
        _OP,
        wants,
        x=x,
        weight=weight,
        bias=bias,
    )
    norms: dict[str, Tensor] = {}
    for name, norm, c in (("norm_before", norm_before, c_in), ("norm_after", norm_after, c_out)):
        if norm is not None:
            norms |= {f"{name}_weight": norm[0], f"{name}_bias": norm[1]}
            fits = has_shape(norm[0], c) and has_shape(norm[1], c)
            check(fits, _OP, "{} must be two tensors [{}]", name, c, x=x, **norms)
    if x.ndim == 4 and layout is None:
        check(x.shape[1] >= k and x.shape[2] >= k, _OP, "H and W must be at least k={}", k, x=x)
    elif x.ndim == 4:
        assert layout is not None
        n, h, w = layout.shape
        fits = x.shape[0] == n and x.shape[1] // k == h and x.shape[2] // k == w
        check(fits, _OP, "x does not fit a result of (N, H, W) = {} at k={}", tuple(layout.shape), k, x=x)
    else:
        assert layout is not None
        check(x.shape[0] == layout.rows, _OP, "x must be [{}, Cin], its layout's rows", layout.rows, x=x)
    cast = autocast_dtype(x)
    if cast is not None:
        x = x.to(cast)
    check_params(_OP, x, weight=weight, bias=bias, **norms)
    run = dispatch.choose(dispatch.Spec.of(_OP, x, weight, bias, *norms.values(), layout=layout), backend).run
    with autocast_off(x):
        call = PatchConvCall.of(
            x, weight, bias, norm_before=norm_before, norm_after=norm_after, eps=constant(eps), layout=layout
        )
        return run(call)


dispatch.register(_OP, [CUDA, CPU, TRITON, TORCH])
