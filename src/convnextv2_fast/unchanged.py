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
    """Remembers a module's attributes, parameters and submodules, of the modules in it also hooks, classes and the code
    of these.

    Values are compared by identity or equality, tensors by identity: what is written into a parameter does not matter.

    Args:
        module: its own hooks do not count: whoever calls it has run them. It is not kept alive.
    """

    def __init__(self, module: nn.Module) -> None:
        self._rows = [_row(m, m is module) for m in module.modules()]
        self._inner = [m for m in module.modules() if m is not module]
        self._types = [*map(type, self._inner)]
        self._classes = tuple(dict.fromkeys(self._types))
        self._code = _codes(self._classes)

    def holds(self) -> bool:
        """Whether all of it is still so."""
        try:
            for attributes, size, get, values in self._rows:
                if len(attributes) != size or get(attributes) != values:
                    return False
            return [*map(type, self._inner)] == self._types and [*map(_CODE, self._classes)] == self._code
        except Exception:  # an attribute is gone, or a tensor in the place of another was compared by value
            return False


def _row(m: nn.Module, outermost: bool) -> tuple[dict[str, Any], int, Any, tuple[Any, ...]]:
    attributes = vars(m)
    names = ["training", "_parameters", *(name for name in attributes if name not in _OF_EVERY_MODULE)]
    if m._modules:
        names.append("_modules")
    if not outermost:
        names += _HOOKS
    get = itemgetter(*names)
    return attributes, len(attributes), get, tuple([_copied(value) for value in get(attributes)])


def _copied(value: Any) -> Any:
    """A copy of what can be changed in place."""
    if isinstance(value, dict):
        return dict(value)
    return type(value)(value) if type(value) in (list, set) else value


def _codes(classes: Iterable[type]) -> list[Any]:
    return list(map(_CODE, classes))
