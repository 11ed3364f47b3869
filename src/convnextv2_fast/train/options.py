"""How a configuration declares its options: as fields of a dataclass, each of a kind of values.

A kind reads the words of a command line, checks values that come from Python, and words the error of both.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, field
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Kind(Generic[T]):
    """The values that an option takes.

    Args:
        wants: what a message says after "must be".
        read: makes a value of a command line's word, or raises ValueError or RuntimeError.
        fits: whether a value of the right type lies in the right range.
        metavar: stands for a value in the help.
        choices: all values, where they are few.
    """

    wants: str
    read: Callable[[str], T]
    fits: Callable[[Any], bool]
    metavar: str | None = None
    choices: tuple[T, ...] = ()

    def value(self, given: Any) -> T:
        """The value that `given` stands for: a str is read as a command line's word, a path is taken as a str.

        Raises:
            ValueError: it is none. The message begins with "must be".
        """
        try:
            word = os.fspath(given) if isinstance(given, os.PathLike) else given
            found = self.read(word) if isinstance(word, str) else word
            if self.fits(found):
                return found
        except (ValueError, RuntimeError):
            pass
        raise ValueError(f"must be {self.wants}, got {given!r}")


def whole(least: float = -math.inf) -> Kind[int]:
    """Whole numbers of at least `least`."""
    limit = "" if least == -math.inf else f" of at least {least}"
    return Kind(f"a whole number{limit}", _whole, lambda value: type(value) is int and value >= least, "N")


def _whole(text: str) -> int:
    if not text.isascii() or not text.removeprefix("-").isdecimal():  # int() also takes "1_000" and other digits
        raise ValueError
    return int(text)


def number(least: float = -math.inf, most: float = math.inf, below: float = math.inf) -> Kind[float]:
    """Finite numbers from `least` to `most`, and below `below`."""
    limit = f" of at least {least:g}" if least > -math.inf else ""
    limit = f" from {least:g} to {most:g}" if most < math.inf else limit
    limit += f" and below {below:g}" if below < math.inf else ""

    def fits(value: Any) -> bool:
        real = isinstance(value, int | float) and not isinstance(value, bool)
        return real and math.isfinite(value) and least <= value <= most and value < below

    return Kind(f"a number{limit}", float, fits, "X")


def text(metavar: str, read: Callable[[str], str] = str) -> Kind[str]:
    """Any text."""
    return Kind("a text", read, lambda value: isinstance(value, str), metavar)


def path(metavar: str) -> Kind[str]:
    """A path, or what may also be a name. A leading `~` is the home folder, as a shell leaves that of `--x=~/y`."""
    return text(metavar, os.path.expanduser)


def one_of(*choices: T) -> Kind[T]:
    """One of a few values of one type."""
    read: Any = type(choices[0])
    return Kind(f"one of {', '.join(map(str, choices))}", read, lambda value: value in choices, choices=choices)


def model_name(*names: str) -> Kind[str]:
    """One of these names; those of a command line may leave out `convnextv2_`."""

    def read(word: str) -> str:
        return word if word in names else f"convnextv2_{word}"

    return Kind(f"one of {', '.join(names)}", read, lambda value: value in names, "NAME")


def _boolean(word: str) -> bool:
    words = {"true": True, "yes": True, "t": True, "y": True, "1": True}
    words |= {"false": False, "no": False, "f": False, "n": False, "0": False}
    if word.lower() not in words:
        raise ValueError
    return words[word.lower()]


BOOLEAN = Kind("true or false", _boolean, lambda value: isinstance(value, bool), "true|false")
DEVICE = Kind("a device such as cpu, cuda or cuda:0", torch.device, lambda value: isinstance(value, torch.device), "D")
COUNT, POSITIVE = whole(0), whole(1)
AMOUNT, SHARE, BELOW_ONE = number(0), number(0, 1), number(0, below=1)


@dataclass(frozen=True)
class Option:
    """A field of a configuration.

    Attributes:
        several: how many values it holds ("+": one or more); None: one, and no list.
    """

    group: str
    kind: Kind[Any]
    help: str
    several: int | str | None = None

    def value(self, given: Any) -> Any:
        """The field's value that `given` stands for; see :meth:`Kind.value`."""
        if self.several is None:
            return self.kind.value(given)
        values = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        if len(values) != self.several and (self.several != "+" or not values):
            number = "one or more" if self.several == "+" else self.several
            raise ValueError(f"must be {number} values, got {given!r}")
        return [self.kind.value(value) for value in values]


def option(group: str, default: Any, kind: Kind[Any], help: str = "", several: int | str | None = None) -> Any:
    """A field. Its `help` says what a default of None stands for; a callable `default` is called for the default."""
    metadata = {"option": Option(group, kind, help, several)}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def declared(fields: Sequence[Field[Any]]) -> dict[str, Option]:
    """The options that these fields declare, by name, in the order of their groups."""
    found: dict[str, Option] = {f.name: f.metadata["option"] for f in fields}
    return dict(sorted(found.items(), key=lambda item: GROUPS.index(item[1].group)))


# A field of each group, in the order in which the groups are listed.
GROUPS = (
    *("images", "model", "steps", "precision and processes", "moving average of the weights"),
    *("checkpoints and log", "optimizer", "augmentation", "evaluation"),
)
in_images, in_model, in_steps, in_processes, in_average, in_files, in_optimizer, in_augmentation, in_evaluation = (
    functools.partial(option, group) for group in GROUPS
)
