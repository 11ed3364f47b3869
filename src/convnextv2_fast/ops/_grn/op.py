"""The public function of global response normalisation."""

from torch import Tensor

from ... import dispatch, plain
from ...constants import constant
from .._shared.checks import autocast_off, check, check_params
from . import reference
from .call import GrnCall
from .cpu import CPU
from .cuda import CUDA
from .reference import TORCH
from .triton import TRITON

_OP = "grn"


def grn(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    *,
    eps: float = 1e-6,
    rows_per_group: int | Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """`gamma * (x * Nx) + beta + x` with `Nx = G / (mean_C G + eps)`, `G = ||x||_2` per group of rows and channel.

    As in upstream's code: the mean over channels (the paper's text has the sum), eps on the denominator only. A zero
    norm has subgradient 0. Statistics in float32 for float16 and bfloat16.

    Args:
        x: `[N, H, W, C]`, or rows `[T, C]` with `rows_per_group`.
        gamma, beta: `[C]`, or any shape of C elements such as upstream's `[1, 1, 1, C]`; x's dtype or float32.
        eps: added to the mean of the norms.
        rows_per_group: rows that share one norm, adjacent in x: an int, or an int64 tensor of counts per group.
            Default: H*W, one group a sample. All rows in one group is the sparse encoder's `grn_scope="batch"`.
        backend: one of :data:`convnextv2_fast.dispatch.NAMES`; None takes context, environment, automatic choice.
    Returns:
        x's shape and dtype.
    Raises:
        UnsupportedInputError: shapes or dtypes do not fit, or the backend cannot run them.
    """
    if plain.recorded_by_jit():
        dispatch.check_traceable(_OP, backend)
        return reference.grn(x, gamma, beta, eps=eps, rows_per_group=rows_per_group)
    fits = x.is_floating_point() and x.ndim in (2, 4) and gamma.numel() == beta.numel() == x.shape[-1]
    wants = "wants x [N, H, W, C] or [T, C] floating point, gamma and beta of C elements"
    check(fits, _OP, wants, x=x, gamma=gamma, beta=beta)
    check_params(_OP, x, gamma=gamma, beta=beta)
    call = GrnCall.of(x, gamma, beta, eps=constant(eps), rows_per_group=rows_per_group)
    run = dispatch.choose(dispatch.Spec.of(_OP, x, gamma, beta), backend).run
    with autocast_off(x):
        return run(call)


dispatch.register(_OP, [CUDA, CPU, TRITON, TORCH])
