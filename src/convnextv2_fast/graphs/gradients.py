"""The gradients of a step: they begin at zero and keep their memory, whatever others did to them in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


class Gradients:
    """Those of some parameters. A graph adds to them where they lay when it was made.

    Args:
        parameters: a function that lists them; one may occur twice.
    """

    def __init__(self, parameters: Callable[[], Iterable[Tensor]]) -> None:
        self._parameters = parameters
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}  # by the parameter's id, which its being here keeps
        self.generation = 0
        """Another number if parameters have a gradient that had none."""

    def attach(self) -> None:
        """Puts the gradients back that others took away (`zero_grad`) or replaced. Their values do not matter yet."""
        for p, gradient in self._kept.values():
            if p.grad is not gradient:
                p.grad = gradient

    def keep(self) -> bool:
        """Keeps those that there are now. Returns whether one that was kept is another tensor now."""
        found = {id(p): (p, p.grad) for p in self._parameters() if p.grad is not None}
        replaced = any(key in found and found[key][1] is not gradient for key, (_, gradient) in self._kept.items())
        if self._kept and not found.keys() <= self._kept.keys():
            self.generation += 1
        self._kept |= found
        return replaced

    def forget(self) -> None:
        """Lets go of all: from now on no parameter has a gradient."""
        self._kept.clear()
        for p in self._parameters():
            p.grad = None

    def zero(self) -> None:
        """Sets them to zero where they lie; a sparse one goes."""
        dense = {}
        for p in self._parameters():
            if p.grad is not None and p.grad.layout is not torch.strided:
                p.grad = None
            elif p.grad is not None:
                dense[id(p)] = p.grad
        if dense:
            torch._foreach_zero_([*dense.values()])
