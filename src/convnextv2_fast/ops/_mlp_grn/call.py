"""A call of the MLP as every implementation takes it."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .._shared.checks import flat, statistics_dtype
from .._shared.groups import Groups


class MlpWeights(NamedTuple):
    """The parameters of the MLP, in x's dtype or float32."""

    w1: Tensor  # [K, C]
    b1: Tensor  # [K]
    gamma: Tensor  # [K]
    beta: Tensor  # [K]
    w2: Tensor  # [C', K]
    b2: Tensor  # [C']


WEIGHTS = "Tensor w1, Tensor b1, Tensor gamma, Tensor beta, Tensor w2, Tensor b2"  # MlpWeights in a schema


class MlpGrnCall(NamedTuple):
    """The arguments of :func:`convnextv2_fast.ops.mlp_grn`, checked and in the kernels' form."""

    u: Tensor  # [..., C]
    weights: MlpWeights  # contiguous
    residual: Tensor | None  # [T, C'], contiguous, in the result's dtype
    row_scale: Tensor | None  # [R], contiguous, float32 (float64 where it was given so)
    eps: float
    groups: Groups
    strategy: str | None

    @classmethod
    def of(
        cls,
        u: Tensor,
        w1: Tensor,
        b1: Tensor,
        gamma: Tensor,
        beta: Tensor,
        w2: Tensor,
        b2: Tensor,
        *,
        residual: Tensor | None = None,
        row_scale: Tensor | None = None,
        eps: float = 1e-6,
        rows_per_group: int | Tensor | None = None,
        strategy: str | None = None,
    ) -> MlpGrnCall:
        """Makes it from the arguments of the public function, the layer scale folded into w2 and b2."""
        b1, gamma, beta = flat(b1), flat(gamma), flat(beta)
        weights = MlpWeights(w1.contiguous(), b1, gamma, beta, w2.contiguous(), b2.contiguous())
        if residual is not None:
            dtype = torch.promote_types(u.dtype, residual.dtype)
            residual = residual.to(dtype).reshape(-1, w2.shape[0]).contiguous()
        if row_scale is not None:
            row_scale = row_scale.to(statistics_dtype(row_scale)).contiguous()
        groups = Groups.of("mlp_grn", u, rows_per_group)
        return cls(u, weights, residual, row_scale, eps, groups, strategy)


def scaled(w2: Tensor, b2: Tensor, layer_scale: Tensor) -> tuple[Tensor, Tensor]:
    """The second layer with the layer scale folded in."""
    layer_scale = layer_scale.reshape(-1)
    return w2 * layer_scale.unsqueeze(1), b2 * layer_scale


class Forward(Protocol):
    def __call__(self, u: Tensor, /, *args: Any) -> tuple[Tensor, ...]:
        """Returns the result `[T, C']`, the groups' norms, float32 `[G, K]`, and what its backward wants beside them,
        of contiguous rows u. `args`: :class:`MlpWeights`, residual, row_scale, the backend's options, groups."""


class Backward(Protocol):
    def __call__(self, dy: Tensor, u: Tensor, /, *args: Any) -> tuple[Tensor, ...]:
        """Returns the gradients of u, w1, b1, gamma, beta, w2 and b2. `args`: these parameters without b2, the norms,
        the backend's options, groups, and what the forward returned for its backward."""


class Kernels(NamedTuple):
    """The operators of a backend. They know nothing of autograd."""

    forward: Forward
    backward: Backward


def out_fake(u: Tensor, w2: Tensor, residual: Tensor | None) -> Tensor:
    """The result's shape and dtype."""
    return u.new_empty((u.shape[0], w2.shape[0]), dtype=(u if residual is None else residual).dtype)
