"""The public function of the MLP."""

from typing import Any

import torch
from torch import Tensor

from ... import dispatch, plain
from ...constants import constant
from ...errors import UnsupportedInputError
from .._shared.checks import as_matrix, autocast_dtype, autocast_off, check, check_params, has_shape
from . import reference
from .call import MlpGrnCall, scaled
from .cpu import CPU
from .cuda import CUDA
from .reference import TORCH
from .triton import TRITON

_OP = "mlp_grn"
STRATEGIES = ("materialize", "recompute", "chunked")


def mlp_grn(
    u: Tensor,
    w1: Tensor,
    b1: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    w2: Tensor,
    b2: Tensor,
    *,
    residual: Tensor | None = None,
    row_scale: Tensor | None = None,
    layer_scale: Tensor | None = None,
    eps: float = 1e-6,
    rows_per_group: int | Tensor | None = None,
    strategy: str | None = None,
    backend: str | None = None,
) -> Tensor:
    """`residual + row_scale * (GRN(GELU(u w1' + b1)) w2' + b2)`, exact (erf) GELU, K hidden channels (4C upstream).

    Args:
        u: `[N, H, W, C]`, or rows `[T, C]` with `rows_per_group`.
        w1, b1: `[K, C]`, `[K]`. w2, b2: `[C', K]`, `[C']`. Parameters in u's dtype or float32. Weights may be those of
            1x1 convolutions, `[K, C, 1, 1]`.
        gamma, beta: K elements, any shape; both None for no GRN (ConvNeXt V1).
        residual: added at the end, shape of the result; sets the result's dtype by promotion.
        row_scale: `[R]` with R dividing T: the factor of each run of T/R adjacent rows (drop path's per-sample scale).
        layer_scale: C' elements that multiply the second product's columns (ConvNeXt V1); folded into w2 and b2.
        eps: GRN's, added to the mean of the norms.
        rows_per_group: rows that share one GRN norm, see :func:`convnextv2_fast.ops.grn`.
        strategy: "materialize", "recompute" or "chunked"; None lets the backend choose. A hint for kernels that have
            more than one; the reference materialises.
        backend: one of :data:`convnextv2_fast.dispatch.NAMES`; None takes context, environment, automatic choice.
    Returns:
        `[..., C']`. Under autocast u is cast to the autocast dtype.
    Raises:
        UnsupportedInputError: shapes or dtypes do not fit, or the backend cannot run them.
    """
    w1, w2 = (w1.flatten(1), w2.flatten(1)) if plain.recorded_by_jit() else (as_matrix(w1), as_matrix(w2))
    hidden, c = w1.shape if w1.ndim == 2 else (-1, -1)
    if gamma is None and beta is None:  # GRN at zero is the identity; torch.compile wants two tensors
        gamma, beta = (torch.zeros_like(b1, requires_grad=False) for _ in range(2))
    if gamma is None or beta is None:
        raise UnsupportedInputError(f"{_OP}: gamma and beta must both be given, or neither")
    if plain.recorded_by_jit():
        dispatch.check_traceable(_OP, backend)
        if layer_scale is not None:
            w2, b2 = scaled(w2, b2, layer_scale)
        given: dict[str, Any] = dict(residual=residual, row_scale=row_scale, eps=eps, rows_per_group=rows_per_group)
        return reference.mlp_grn(u, w1, b1, gamma, beta, w2, b2, **given)
    check(
        u.is_floating_point()
        and u.ndim in (2, 4)
        and u.shape[-1] == c
        and has_shape(b1, hidden)
        and gamma.numel() == beta.numel() == hidden
        and w2.ndim == 2
        and w2.shape[1] == hidden
        and has_shape(b2, w2.shape[0]),
        _OP,
        "wants u [N, H, W, C] or [T, C], w1 [K, C], b1 [K], gamma and beta of K elements, w2 [C', K], b2 [C']",
        u=u,
        w1=w1,
        b1=b1,
        gamma=gamma,
        beta=beta,
        w2=w2,
        b2=b2,
    )
    if strategy is not None and strategy not in STRATEGIES:
        raise UnsupportedInputError(f"{_OP}: unknown strategy {strategy!r}; choose one of {', '.join(STRATEGIES)}")
    if residual is not None:
        wants = (*u.shape[:-1], w2.shape[0])
        check(has_shape(residual, *wants), _OP, "residual must be {}", wants, u=u, residual=residual)
    if layer_scale is not None:
        fits = layer_scale.numel() == w2.shape[0]
        check(fits, _OP, "layer_scale must have C' elements", w2=w2, layer_scale=layer_scale)
        w2, b2 = scaled(w2, b2, layer_scale)
    rows = u.numel() // c if c else 0
    if row_scale is not None:
        fits = row_scale.ndim == 1 and (rows == 0 or (row_scale.numel() > 0 and rows % row_scale.numel() == 0))
        check(fits, _OP, "row_scale must be [R] with R dividing the number of rows", u=u, row_scale=row_scale)
    for name, other in (("residual", residual), ("row_scale", row_scale)):
        if other is None:
            continue
        real = other.is_floating_point() and (u.dtype == torch.float64 or other.dtype != torch.float64)
        check(real, _OP, "{} must be floating point, float64 only beside a float64 u", name, u=u, **{name: other})
        if other.device != u.device:
            raise UnsupportedInputError(f"{_OP}: {name} is on {other.device}, u on {u.device}; move them together")
    cast = autocast_dtype(u)
    if cast is not None:
        u = u.to(cast)
    check_params(_OP, u, w1=w1, b1=b1, gamma=gamma, beta=beta, w2=w2, b2=b2)
    run = dispatch.choose(dispatch.Spec.of(_OP, u, w1, b1, gamma, beta, w2, b2), backend).run
    options: dict[str, Any] = dict(
        residual=residual, row_scale=row_scale, eps=constant(eps), rows_per_group=rows_per_group, strategy=strategy
    )
    with autocast_off(u):
        return run(MlpGrnCall.of(u, w1, b1, gamma, beta, w2, b2, **options))


dispatch.register(_OP, [CUDA, CPU, TRITON, TORCH])
