"""Verdicts on modules of classes that no package defines: may an op stand for this one as it is now?

A verdict holds for a class, the forward it has, and the values that the forward reads of the module. It is made once,
and asked for in every call: so instances are told apart, and a value that is changed later is seen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ._forwards import Reading, reading

_PLAIN = (bool, int, float, str, type(None))
_ABSENT = "(absent)"
_LIMIT = 2000  # verdicts kept: each belongs to a class and some values, and a schedule may change a value in every step


def _has_code(forward: Any, code: Any) -> bool:
    """Whether a forward still has the code that was read: another function may be put into a class, and other code into
    a function. torch.compile guards on the code that it has seen."""
    return torch.compiler.is_compiling() or getattr(forward, "__code__", None) is code


class Judge:
    """Judges modules of one kind.

    Args:
        trial: takes a class, the attributes that its forward reads, and a form; returns why an op may not stand for
            such a module, or None.
        parts: attributes that the trial provides: modules and parameters.
        always: attributes that the op reads of the module, whether or not the forward does.
    """

    def __init__(
        self,
        trial: Callable[..., str | None],
        parts: frozenset[str],
        always: tuple[str, ...] = (),
    ) -> None:
        self._trial, self._parts, self._always = trial, parts, always
        self._watched: dict[type, tuple[Reading, tuple[str, ...]]] = {}
        self._verdicts: dict[tuple[Any, ...], str | None] = {}
        self._lock = threading.Lock()

    def reads(self, cls: type[nn.Module], name: str) -> bool:
        """Whether the forward of the class reads that attribute."""
        return name in self._read(cls)[0].names

    def why_not(self, m: nn.Module, cls: type[nn.Module], form: tuple[str, ...] = ()) -> str | None:
        """Why an op may not stand for the module as it is now, `cls` being its class; None if it may. `form` says which
        of the attributes that the trial provides the module has."""
        read, watched = self._read(cls)
        if read.why is not None:
            return read.why
        values = tuple([getattr(m, name, _ABSENT) for name in watched])
        key = (cls, read.forward, read.code, values, form)
        try:
            if key in self._verdicts:
                return self._verdicts[key]
        except TypeError:  # a value that has no hash
            return self._not_plain(watched, values) or "its forward reads what cannot be compared"
        if torch.compiler.is_compiling():
            return "it was not tried out before torch.compile"
        own = {name: value for name, value in zip(watched, values, strict=True) if value is not _ABSENT}
        return self._not_plain(watched, values) or self._missing(read, own) or self._try(key, own, form)

    def _read(self, cls: type[nn.Module]) -> tuple[Reading, tuple[str, ...]]:
        found = self._watched.get(cls)
        forward: Any = cls.forward
        if found is not None and found[0].forward is forward and _has_code(forward, found[0].code):
            return found
        read = reading(cls, forward, getattr(forward, "__code__", None))  # type: ignore[arg-type]  # it is hashable
        watched = tuple(sorted((read.names | read.asked | set(self._always)) - self._parts))
        found = self._watched[cls] = (read, watched)
        return found

    def _missing(self, read: Reading, own: dict[str, Any]) -> str | None:
        missing = read.names - self._parts - {*own}
        return f"its forward uses {min(missing)}" if missing else None

    @staticmethod
    def _not_plain(watched: tuple[str, ...], values: tuple[Any, ...]) -> str | None:
        for name, value in zip(watched, values, strict=True):
            parts = value if isinstance(value, tuple) else (value,)
            if not all(type(part) in _PLAIN for part in parts):
                what = "a tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"
                return f"its forward reads {name}, {what}"
        return None

    def _try(self, key: tuple[Any, ...], own: dict[str, Any], form: tuple[str, ...]) -> str | None:
        with self._lock:
            if key not in self._verdicts:
                if len(self._verdicts) >= _LIMIT:
                    self._verdicts.clear()
                try:
                    self._verdicts[key] = self._trial(key[0], own, *form)
                except Exception as error:  # a class that only looks like upstream's may do anything
                    text = str(error).splitlines()
                    self._verdicts[key] = f"trying it out failed: {type(error).__name__}: {text[0] if text else ''}"
            return self._verdicts[key]
