"""What a call asks for, and what can run it: the two types between which :mod:`convnextv2_fast.dispatch` decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .layouts import Layout


class Spec(NamedTuple):
    """The properties of a call by which a backend decides whether it can run it."""

    op: str
    device: str  # device type: "cpu", "cuda", ...
    dtype: torch.dtype  # of the activations
    param_dtype: torch.dtype | None  # of the parameters; None when they differ among themselves
    channels: int
    layout: str  # "dense", "patch" or "site"
    needs_grad: bool
    extras: tuple[str, ...] = ()  # in words, what the call has that a fused kernel may not take: "drop path"
    device_index: int | None = None  # among those of its type; None: the current one

    @classmethod
    def of(cls, op: str, x: Tensor, *params: Tensor | None, layout: Layout | None = None) -> Spec:
        """The spec of ``op`` called on activations ``x`` `[..., C]` with ``params`` and a layout (None: dense)."""
        param_dtype: torch.dtype | None = x.dtype
        needs_grad = x.requires_grad
        first = True
        for p in params:
            if p is None:
                continue
            needs_grad = needs_grad or p.requires_grad
            if first:
                param_dtype, first = p.dtype, False
            elif p.dtype != param_dtype:
                param_dtype = None
        kind = "dense" if layout is None else layout.kind
        needs_grad = needs_grad and torch.is_grad_enabled()
        device = x.device
        return cls(op, device.type, x.dtype, param_dtype, x.shape[-1], kind, needs_grad, (), device.index)

    def describe(self) -> str:
        params = "mixed" if self.param_dtype is None else str(self.param_dtype).removeprefix("torch.")
        return (
            f"{str(self.dtype).removeprefix('torch.')} activations ({params} parameters), C={self.channels}, "
            f"{self.layout} layout, {self.device}, {'with' if self.needs_grad else 'without'} gradients"
            + "".join(f", {extra}" for extra in self.extras)
        )


@dataclass(frozen=True)
class Implementation:
    """One backend of one op: ``run(call)`` computes it, for the call object of the op's ``call.py``; differentiable.

    ``reasons(spec)`` lists, a sentence each, why it cannot run; empty: it can. With ``automatic=False`` it runs only
    when asked for: a kernel that has not been measured faster, or proven, yet."""

    backend: str
    run: Callable[[Any], Tensor]
    reasons: Callable[[Spec], list[str]]
    automatic: bool = True
    notes: Callable[[Spec], list[str]] | None = None  # lines for `explain` on how it would run


def always(spec: Spec) -> list[str]:
    """The predicate of an implementation that can run every call."""
    return []
