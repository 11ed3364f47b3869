"""A call of GRN as every implementation takes it, and the operators of the C++ and the Triton kernels."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ... import library
from .._shared.checks import flat
from .._shared.groups import GROUPS, Groups


class GrnCall(NamedTuple):
    """The arguments of :func:`convnextv2_fast.ops.grn`, checked and in the kernels' form."""

    x: Tensor  # [..., C]
    gamma: Tensor  # [C], contiguous
    beta: Tensor  # [C], contiguous
    eps: float
    groups: Groups

    @classmethod
    def of(
        cls, x: Tensor, gamma: Tensor, beta: Tensor, *, eps: float = 1e-6, rows_per_group: int | Tensor | None = None
    ) -> GrnCall:
        """Makes it from the arguments of the public function."""
        return cls(x, flat(gamma), flat(beta), eps, Groups.of("grn", x, rows_per_group))


class Forward(Protocol):
    def __call__(self, x: Tensor, gamma: Tensor, beta: Tensor, eps: float, /, *groups: Any) -> tuple[Tensor, Tensor]:
        """Returns y `[T, C]` and the groups' norms, float32 `[G, C]`, of contiguous rows x."""


class Backward(Protocol):
    def __call__(
        self, dy: Tensor, x: Tensor, gamma: Tensor, norm: Tensor, eps: float, /, *groups: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns dx `[T, C]` in x's dtype, dgamma and dbeta, float32 `[C]`."""


class Kernels(NamedTuple):
    """The operators of a backend. They know nothing of autograd."""

    forward: Forward
    backward: Backward


def _forward_fake(x: Tensor, gamma: Tensor, beta: Tensor, eps: float, rows_per_group: int, count: int, *_: Any) -> Any:
    return x.new_empty(x.shape), x.new_empty((count, x.shape[1]), dtype=torch.float32)


def _backward_fake(dy: Tensor, x: Tensor, *_: Any) -> Any:
    return x.new_empty(x.shape), *(x.new_empty((x.shape[1],), dtype=torch.float32) for _ in range(2))


def operators(prefix: str, forward: Forward | None = None, backward: Backward | None = None) -> Kernels:
    """Declares `<prefix>grn_fwd` and `<prefix>grn_bwd`; without Python functions for them, C++ attaches its own."""
    return Kernels(
        library.define(
            f"{prefix}grn_fwd(Tensor x, Tensor gamma, Tensor beta, float eps, {GROUPS}) -> (Tensor y, Tensor norm)",
            _forward_fake,
            forward,
        ),
        library.define(
            f"{prefix}grn_bwd(Tensor dy, Tensor x, Tensor gamma, Tensor norm, float eps, {GROUPS}) "
            "-> (Tensor dx, Tensor dgamma, Tensor dbeta)",
            _backward_fake,
            backward,
        ),
    )


NATIVE = operators("")  # csrc/torch/grn_cpu.cpp and grn_cuda.cpp
