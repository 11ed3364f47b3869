"""Types of command-line arguments, and the error that becomes one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..train.options import DEVICE, Kind, number, whole

T = TypeVar("T")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


class CommandError(Exception):
    """The command line asks for something that cannot be; the message says what would work."""


def checked(kind: Kind[T]) -> Callable[[str], T]:
    """argparse type: the values of a kind. Anything else is an error that says what it must be."""

    def value(text: str) -> T:
        try:
            return kind.value(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return value


RANGE: dict[str, Any] = {  # add_argument's keywords for --value_range
    "type": checked(number()),
    "nargs": 2,
    "metavar": "X",
    "help": "values that are black and white in images of more than 8 bits (default: as in training)",
}
positive, count, device = checked(whole(1)), checked(whole(0)), checked(DEVICE)


def path(text: str) -> Path:
    """argparse type: a path, whose leading `~` is the home folder: the shell leaves that of `--option=~/x` alone."""
    return Path(text).expanduser()


def ordered(low_high: list[float] | None) -> list[float] | None:
    """What --value_range gives, if anything; a CommandError where the lower value is not the first."""
    if low_high is not None and low_high[0] >= low_high[1]:
        raise CommandError(f"--value_range {low_high[0]:g} {low_high[1]:g}: the lower value comes first")
    return low_high


def require_device(found: torch.device) -> torch.device:
    """The device, if this machine has it; a CommandError if not."""
    if found.type == "cpu":
        if found.index:
            raise CommandError(f"device {str(found)!r}: torch has one CPU device; say cpu")
        return torch.device("cpu")
    if found.type != "cuda":
        raise CommandError(f"device {str(found)!r}: only cpu and cuda devices are measured and checked")
    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (found.index or 0) >= number:
        raise CommandError(f"device {str(found)!r}: torch {torch.__version__} sees {number} CUDA devices here")
    return torch.device("cuda", found.index or 0)


def devices() -> list[torch.device]:
    """The CPU, and the first CUDA device where there is one."""
    return [torch.device("cpu"), *([torch.device("cuda", 0)] if torch.cuda.is_available() else [])]
