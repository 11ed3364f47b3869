"""Graphs by what they are for: made once it has come often enough, forgotten when others come more often."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from . import capture
from .calls import Call

_making: dict[torch.device, Any] = defaultdict(threading.RLock)
"""What runs aside, and what is recorded, shares one stream of a device: one thread at a time may use it."""
_REMEMBERED = 16  # keys that are counted, for each graph that is kept


def remember(found: dict[Hashable, Any], key: Hashable, value: Any, most: int = 256) -> None:
    """Puts an entry into a dictionary that must not grow without end; the oldest goes."""
    found[key] = value
    while len(found) > most:
        del found[next(iter(found))]


@dataclass
class _Entry:
    inputs: Call
    recording: capture.Recording


class Shelf:
    """Calls a function eagerly at first, and as a graph from then on.

    The first calls with a key are ordinary calls that happen to run aside: they compile kernels, make workspaces and
    gradients, and their results count. So nothing has to be undone before a graph is made.

    Args:
        warm_up: calls with a key before its graph is made.
        most: graphs that are kept, those used last.
    """

    def __init__(self, device: torch.device, warm_up: int, most: int, generators: Sequence[torch.Generator]) -> None:
        self.device, self.warm_up, self.most, self.generators = device, warm_up, most, tuple(generators)
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._seen: OrderedDict[Hashable, int] = OrderedDict()
        self._pool: Any = None

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()
        self._seen.clear()
        self._pool = None  # a pool stays as long as its graphs; a new one must not find what old ones left

    def left(self, key: Hashable) -> int:
        """Calls that will still be eager."""
        return 0 if key in self._entries else max(0, self.warm_up - self._seen.get(key, 0))

    def run(self, key: Hashable, call: Call, function: Callable[[Call], Any]) -> tuple[Any, bool]:
        """Calls the function, or replays what it did.

        Returns:
            Its result; and whether that lies in static memory, which the next replay overwrites.
        """
        if self.left(key):
            self._seen[key] = self._seen.get(key, 0) + 1
            self._seen.move_to_end(key)
            while len(self._seen) > _REMEMBERED * self.most:
                self._seen.popitem(last=False)
            with _making[self.device]:
                return capture.recorder.aside(self.device, lambda: function(call)), False
        entry = self._entries.get(key) or self._make(key, call, function)
        self._entries.move_to_end(key)
        entry.inputs.fill(call)
        entry.recording.replay()
        return entry.recording.outputs, True

    def _make(self, key: Hashable, call: Call, function: Callable[[Call], Any]) -> _Entry:
        while len(self._entries) >= self.most:
            self._entries.popitem(last=False)  # before the new one needs memory
        if not self._entries:
            self._pool = capture.recorder.pool()
        inputs = call.static()
        inputs.fill(call)
        with _making[self.device]:
            recording = capture.recorder.record(self.device, lambda: function(inputs), self._pool, self.generators)
        self._entries[key] = _Entry(inputs, recording)
        return self._entries[key]
