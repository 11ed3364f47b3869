"""Whether all that a training step runs still is what it was: the model, the loss and what it holds, the optimizer's
parameters, the moving average."""

from __future__ import annotations

import functools
import operator
import types
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from torch import Tensor, nn

from . import wrappers
from .watch import Watch, places, why_not_hooked

_MOST = 1000  # objects that are looked at in a loss; it may reach a whole program
_LIBRARIES = {"torch", "torchvision", "timm", "transformers", "numpy", "convnextv2_fast"}  # whose globals stay


class StepWatch:
    """They as they are now. The moving average is looked at alone: no graph runs its modules.

    Args:
        parameters: lists those of the optimizer.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Tensor],
        ema: Any,
        parameters: Callable[[], Iterable[Tensor]],
    ) -> None:
        bare = wrappers.bare(model)
        self._ema, self._averaged, self._parameters = ema, getattr(ema, "module", None), parameters
        self._held = held_by(loss)
        modules = {id(m): m for m in self._held if isinstance(m, nn.Module) and wrappers.bare(m) is not bare}
        self._model, self._others = Watch(bare), [Watch(m) for m in modules.values()]
        self._run = [self._model, *self._others]
        self._all = self._run + ([Watch(self._averaged)] if isinstance(self._averaged, nn.Module) else [])
        self._free = self._free_tensors()
        self._memory = places(self._free)
        self._trained = [t.requires_grad for t in self._free]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those of the model."""
        return self._model.parameters

    @property
    def parameters_of_the_loss(self) -> list[Tensor]:
        """Those of modules that the loss holds, and leaves that it holds by themselves."""
        return [p for watch in self._others for p in watch.parameters] + [t for t in self._free if t.requires_grad]

    def _free_tensors(self) -> list[Tensor]:
        """Of the optimizer and of the loss, those that are in no module."""
        in_modules = {id(p) for watch in self._run for p in watch.parameters}
        found = [*self._parameters(), *(t for t in self._held if isinstance(t, Tensor))]
        return [*{id(t): t for t in found if id(t) not in in_modules}.values()]

    def changed(self, loss: Callable[..., Tensor]) -> str | None:
        """What is no longer as it was, in words. `loss` is what is called now."""
        if getattr(self._ema, "module", None) is not self._averaged:
            return "the module of the moving average is another one"
        held = held_by(loss)
        if not _same(held, self._held):
            other = next((a for a, b in zip(held, self._held, strict=False) if a is not b), None)
            return f"the loss, or what it holds, is no longer the same (now a {type(other).__name__})"
        reason = next(filter(None, (watch.changed() for watch in self._all)), None)
        if reason:
            return reason
        free = self._free_tensors()
        if not _same(free, self._free) or [t.requires_grad for t in free] != self._trained:
            return "other parameters are trained"
        return None if places(free) == self._memory else "a parameter of the optimizer or the loss lies in other memory"

    def why_not(self) -> str | None:
        """What a replay would leave out, or a graph cannot hold."""
        if len(self._held) >= _MOST:
            return f"the loss reaches more than {_MOST} objects; give it a function that holds what it needs"
        for watch in self._run:
            reason = watch.never or watch.never_trained or watch.why_not()
            if reason:
                return reason
        return why_not_hooked(self._free)


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(map(operator.is_, one, other))


def held_by(function: Any) -> list[Any]:
    """A function and what it can reach without an argument: closures, defaults, partials, the object of a method, its
    attributes, items of lists and dictionaries, and globals, but for those of libraries. Not what is inside modules and
    tensors."""
    found: list[Any] = []
    seen: set[int] = set()
    waiting = [function]
    while waiting and len(found) < _MOST:
        this = waiting.pop()
        if id(this) in seen:
            continue
        seen.add(id(this))
        found.append(this)
        waiting += _inside(this)
    return found


def _inside(this: Any) -> Iterable[Any]:
    if isinstance(this, nn.Module | Tensor | type | types.ModuleType | str | bytes):
        return ()
    if isinstance(this, types.FunctionType):
        inside = [*(this.__defaults__ or ()), *(this.__kwdefaults__ or {}).values()]
        inside += [cell.cell_contents for cell in this.__closure__ or () if _is_filled(cell)]
        if (this.__module__ or "").partition(".")[0] not in _LIBRARIES:
            inside += [this.__globals__[name] for name in _names(this.__code__) if name in this.__globals__]
        return inside
    if isinstance(this, types.MethodType):
        return this.__func__, this.__self__
    if isinstance(this, functools.partial):
        return this.func, *this.args, *this.keywords.values()
    if isinstance(this, list | tuple | set):
        return islice(this, _MOST)
    if isinstance(this, dict):
        return islice(this.values(), _MOST)
    call = getattr(type(this), "__call__", None)  # noqa: B004  # what it runs is wanted
    held = getattr(this, "__dict__", {}).values()
    return (*held, call) if isinstance(call, types.FunctionType) else held


def _names(code: types.CodeType) -> list[str]:
    """Of globals and attributes that a function uses, also in functions and comprehensions inside it."""
    inner = [name for c in code.co_consts if isinstance(c, types.CodeType) for name in _names(c)]
    return [*code.co_names, *inner]


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
