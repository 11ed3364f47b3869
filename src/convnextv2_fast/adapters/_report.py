"""What `accelerate` and `restore` did, in data and in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Replaced(NamedTuple):
    """A module whose forward runs on this library: its name in the model, its class, what it runs as."""

    name: str
    cls: str
    runs_as: str


class NotReplaced(NamedTuple):
    """A module that this library knows but leaves alone, in whole or in part, and why."""

    name: str
    cls: str
    reason: str


@dataclass(frozen=True)
class AccelerateReport:
    """Which modules of a model run on this library.

    `notes` say what would make the model faster still."""

    replaced: tuple[Replaced, ...]
    not_replaced: tuple[NotReplaced, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"replaced {len(self.replaced)} modules"]
        lines += [f"  {count} {cls}: {what}" for (cls, what), count in _counted(r[1:] for r in self.replaced)]
        if self.not_replaced:
            lines.append(f"not replaced, in whole or in part: {len(self.not_replaced)}")
            for (cls, reason), count in _counted(r[1:] for r in self.not_replaced):
                names = [r.name or "the model" for r in self.not_replaced if r[1:] == (cls, reason)]
                listed = ", ".join(names[:3]) + (", ..." if count > 3 else "")
                lines.append(f"  {count} {cls}: {reason} ({listed})")
        return "\n".join([*lines, *self.notes])


def _counted(pairs: Iterable[tuple[str, ...]]) -> Iterable[tuple[tuple[str, ...], int]]:
    counts: dict[tuple[str, ...], int] = {}
    for pair in pairs:
        counts[pair] = counts.get(pair, 0) + 1
    return counts.items()
