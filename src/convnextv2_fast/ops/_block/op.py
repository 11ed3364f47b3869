"""The public function of the block."""

from __future__ import annotations

from torch import Tensor

from ... import dispatch, plain
from ...errors import UnsupportedInputError
from ...layouts import Layout
from .._shared.checks import check, check_rows
from .call import BlockCall, BlockWeights, RowScale, spec
from .composed import COMPOSED
from .cpu import CPU
from .cuda import CUDA

_OP = "block"


def block(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    w2: Tensor,
    b2: Tensor,
    *,
    layer_scale: Tensor | None = None,
    row_scale: RowScale | None = None,
    ln_eps: float = 1e-6,
    grn_eps: float = 1e-6,
    layout: Layout | None = None,
    rows_per_group: int | Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """`x + row_scale * layer_scale * MLP(LayerNorm(dwconv(x)))`, the ConvNeXt block, V1 or V2.

    It is one operator for each direction on NVIDIA GPUs (implementation "cuda"), one for inference on the CPU, which
    keeps the activations between the halves in the cache ("cpu"), and elsewhere :func:`dwconv_layer_norm` and
    :func:`mlp_grn` ("composed").

    Args:
        x: `[N, H, W, C]`, any strides; or rows `[T, C]` with `layout` and `rows_per_group`.
        kernel, bias, ln_weight, ln_bias, ln_eps, layout: as `weight`, `bias` ... of :func:`dwconv_layer_norm`.
        w1, b1, gamma, beta, w2, b2, layer_scale, grn_eps, rows_per_group: as :func:`mlp_grn` has them.
        row_scale: called with a tensor of the shape, dtype and device of what the MLP reads, whose values are any;
            returns drop path's factors as :func:`mlp_grn` takes them, or None.
        backend: one of :data:`convnextv2_fast.dispatch.NAMES`, for both halves; "composed" never fuses them. None takes
            context, environment, automatic choice.
    Returns:
        x's shape; under autocast in x's dtype promoted with the autocast dtype.
    Raises:
        UnsupportedInputError: shapes or dtypes do not fit, gamma is given without beta or beta without gamma, or the
            backend cannot run them.
    """
    weights = BlockWeights(kernel, bias, ln_weight, ln_bias, w1, b1, gamma, beta, w2, b2, layer_scale)
    call = BlockCall(x, weights, row_scale, ln_eps, grn_eps, layout, rows_per_group, backend)
    if plain.recorded_by_jit():
        return COMPOSED.run(call)
    check_rows(_OP, x, layout)
    if kernel.ndim not in (2, 4) or kernel.shape[1 if kernel.ndim == 2 else 0] != x.shape[-1]:  # more is asked below
        check(False, _OP, "wants kernel [C, 1, 7, 7] or [49, C]", x=x, kernel=kernel)
    if (gamma is None) != (beta is None):
        raise UnsupportedInputError(f"{_OP}: gamma and beta must both be given, or neither")
    asks = spec(x, *weights, layout=layout, drop_path=row_scale is not None)
    return dispatch.choose(asks, backend).run(call)


dispatch.register(_OP, [CUDA, CPU, COMPOSED], spec)
