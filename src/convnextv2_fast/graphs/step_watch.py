"""Whether all that a training step runs still is what it was: the model, the loss, the moving average."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from . import wrappers
from .watch import Watch


class StepWatch:
    """They as they are now. The moving average is looked at alone: no graph runs its modules."""

    def __init__(self, model: nn.Module, loss: Callable[..., Tensor], ema: Any) -> None:
        bare = wrappers.bare(model)
        self._loss, self._ema, self._averaged = loss, ema, getattr(ema, "module", None)
        self._model = Watch(bare)
        self._run = [self._model, *(Watch(m) for m in _modules_of(loss) if wrappers.bare(m) is not bare)]
        average = [Watch(self._averaged)] if isinstance(self._averaged, nn.Module) else []
        self._all = self._run + average

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those of the model."""
        return self._model.parameters

    def changed(self, loss: Callable[..., Tensor]) -> str | None:
        """What is no longer as it was, in words. `loss` is what is called now."""
        if loss is not self._loss or getattr(self._ema, "module", None) is not self._averaged:
            return "the loss or the moving average is another object"
        return next(filter(None, (watch.changed() for watch in self._all)), None)

    def why_not(self) -> str | None:
        """What a replay would leave out, or a graph cannot hold."""
        for watch in self._run:
            reason = watch.never or watch.never_trained or watch.why_not()
            if reason:
                return reason
        return None


def _modules_of(function: Any) -> list[nn.Module]:
    """The modules that a function, a method or a partial of one holds; a module holds itself."""
    if isinstance(function, nn.Module):
        return [function]
    held = [getattr(function, "__self__", None)]
    held += [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if _is_filled(cell)]
    if isinstance(function, functools.partial):
        held += [function.func, *function.args, *function.keywords.values()]
    return [m for m in held if isinstance(m, nn.Module)]


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
