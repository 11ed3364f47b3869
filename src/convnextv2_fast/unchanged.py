"""Whether a module is still what it was when somebody looked at it, told by comparing dictionaries."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter, itemgetter
from typing import Any

from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_CODE = attrgetter("forward", "forward.__code__", "__call__")


class Unchanged:
    """Remembers a module's class, attributes, parameters, buffers and submodules, of the modules in it also hooks and
    the code of their classes.

    Values are compared by identity or equality. What is written into a tensor does not matter; another tensor in its
    place does, unless both hold one equal number: of such tensors this cannot tell.

    Args:
        module: its own hooks do not count: whoever calls it has run them. It is not kept alive.
    """

    def __init__(self, module: nn.Module) -> None:
        self._inner = [m for m in module.modules() if m is not module]
        self._own, self._rows = _row(module, True), [(m, *_row(m, False)) for m in self._inner]
        self._class = type(module)
        self._parts = getattr(self._class, "parts", None)
        self._types = [*map(type, self._inner)]
        self._classes = tuple(dict.fromkeys(self._types))
        self._code = _codes(self._classes)

    def holds(self, module: nn.Module) -> bool:
        """Whether all of it is still so of the module."""
        try:
            size, get, values = self._own
            attributes = module.__dict__
            if len(attributes) != size or get(attributes) != values or type(module) is not self._class:
                return False
            for m, size, get, values in self._rows:
                attributes = m.__dict__
                if len(attributes) != size or get(attributes) != values:
                    return False
            if getattr(self._class, "parts", None) is not self._parts:
                return False
            return [*map(type, self._inner)] == self._types and [*map(_CODE, self._classes)] == self._code
        except Exception:  # an attribute is gone, or a tensor in the place of another was compared by value
            return False


def _row(m: nn.Module, outermost: bool) -> tuple[int, Any, tuple[Any, ...]]:
    attributes = vars(m)
    names = ["training", "_parameters", *(name for name in attributes if name not in _OF_EVERY_MODULE)]
    names += [name for name in ("_modules", "_buffers") if attributes[name]]
    if not outermost:
        names += _HOOKS
    get = itemgetter(*names)
    return len(attributes), get, tuple([_copied(value) for value in get(attributes)])


def _copied(value: Any) -> Any:
    """A copy of what can be changed in place."""
    if isinstance(value, dict):
        return dict(value)
    return type(value)(value) if type(value) in (list, set) else value


def _codes(classes: Iterable[type]) -> list[Any]:
    return list(map(_CODE, classes))
