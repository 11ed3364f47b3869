"""Types of command-line arguments, and the error that becomes one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


class CommandError(Exception):
    """The command line asks for something that cannot be; the message says what would work."""


def positive(text: str) -> int:
    """argparse type: an integer of at least 1."""
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def count(text: str) -> int:
    """argparse type: an integer of at least 0."""
    if not text.isascii() or not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)


def path(text: str) -> Path:
    """argparse type: a path, whose leading `~` is the home folder: the shell leaves that of `--option=~/x` alone."""
    return Path(text).expanduser()


def path_text(text: str) -> str:
    """argparse type: :func:`path` for what may also be a name, or empty."""
    return os.path.expanduser(text)


def device(text: str) -> torch.device:
    """argparse type: a device that torch knows by name. Whether this machine has it: :func:`require_device`."""
    try:
        return torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no device; say cpu, cuda or cuda:0") from None


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
