"""The gradients of a step: they begin at zero and keep their memory, whatever others did to them in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


class Gradients:
    """Those of the parameters that a step trains, and of those that it only reaches. A graph adds to them where they
    lay when it was made.

    Args:
        own: a function that lists the parameters of the model and of the optimizer; one may occur twice.
        others: a function that lists those of the loss that the optimizer does not have. Their owner trains them and
            sets their gradients to zero.
    """

    def __init__(self, own: Callable[[], Iterable[Tensor]], others: Callable[[], Iterable[Tensor]]) -> None:
        self._own, self._others = own, others
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}  # by the parameter's id, which its being here keeps
        self.generation = 0
        """Another number if parameters have a gradient that had none."""

    def attach(self, first: bool) -> None:
        """Puts the gradients back that others took away or replaced.

        Args:
            first: before the first part of a step, where the values of its own do not matter: it sets them to zero. One
                that it does not know goes, and its parameter is not stepped.
        """
        own = {id(p): p for p in self._own()}
        for key, (p, gradient) in self._kept.items():
            if p.grad is gradient:
                continue
            if p.grad is None and not (first and key in own):
                gradient.zero_()
            elif not (first and key in own):
                gradient.copy_(p.grad)  # type: ignore[arg-type]  # it is a tensor here
            p.grad = gradient
        if first:
            for key, p in own.items():
                if key not in self._kept:
                    p.grad = None

    def detach(self) -> None:
        """After a step there are none, as after `zero_grad`."""
        for p in self._own():
            p.grad = None

    def keep(self) -> bool:
        """Keeps those that there are now. Returns whether one that was kept is another tensor now."""
        every = [*self._own(), *self._others()]
        found = {id(p): (p, p.grad) for p in every if p.grad is not None}
        replaced = any(key in found and found[key][1] is not gradient for key, (_, gradient) in self._kept.items())
        if self._kept and not found.keys() <= self._kept.keys():
            self.generation += 1
        self._kept |= found
        return replaced

    def forget(self) -> None:
        """Lets go of all: from now on no parameter of its own has a gradient."""
        self._kept.clear()
        self.detach()

    def zero(self) -> None:
        """Sets its own to zero where they lie; a sparse one goes."""
        dense = {}
        for p in self._own():
            if p.grad is not None and p.grad.layout is not torch.strided:
                p.grad = None
            elif p.grad is not None:
                dense[id(p)] = p.grad
        if dense:
            torch._foreach_zero_([*dense.values()])
