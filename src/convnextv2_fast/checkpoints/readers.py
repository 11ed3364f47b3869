"""Read one file of weights to the CPU: safetensors, or what torch.save wrote. Nothing in a file is ever executed."""

from __future__ import annotations

import argparse
import contextlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from . import numpy_values

# Upstream's training scripts save their arguments, a Namespace, beside the weights.
_NAMESPACE = "argparse.Namespace"
# How files begin that torch.save writes (a zip archive, or a pickle), and others that are taken for them.
_OURS = (b"PK", b"\x80")
_OTHERS = {
    **dict.fromkeys((b"<!doctype html", b"<html"), "it is a web page, so its download has failed"),
    b"version https://git-lfs": "it is a pointer of Git LFS; `git lfs pull` fetches the file itself",
    b"\x89hdf": "it is an HDF5 file, as Keras writes",
    b"\x89png": "it is a PNG picture",
    b"\xff\xd8\xff": "it is a JPEG picture",
    b"\x1f\x8b": "it is compressed with gzip; unpack it first",
    b"{": "it is JSON",
}


def read_one(path: Path) -> Any:
    """The content of a file that is there and not empty.

    Raises:
        CheckpointError: it cannot be read, or holds what could run code.
    """
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: the file is empty")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as e:
        raise CheckpointError(
            f"{path}: reading .safetensors needs the package safetensors (pip install safetensors)"
        ) from e
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError) as e:
        raise CheckpointError(f"{path}: truncated, corrupt, or no safetensors file ({first_line(e)})") from e


def _read_torch(path: Path) -> Any:
    try:
        return _load(path, [argparse.Namespace])
    except MemoryError:
        raise
    except Exception as e:  # the unpickler lets nearly any exception through on a file that is not a checkpoint
        foreign = _foreign_objects(path, e)
        error = e
    if foreign and foreign <= {*numpy_values.STAND_INS}:
        # Tried second, so that numpy's own functions serve a program that has allowed them.
        try:
            return _load(path, [argparse.Namespace, *((stand_in, n) for n, stand_in in numpy_values.STAND_INS.items())])
        except MemoryError:
            raise
        except Exception as e:
            foreign = _foreign_objects(path, e)
            error = e
    foreign -= {*numpy_values.STAND_INS}
    if foreign:
        raise CheckpointError(
            f"{path}: holds Python objects that may run code when read ({', '.join(sorted(foreign))}); if you trust "
            "it, pass what torch.load(path, weights_only=False) returns in its place"
        ) from error
    raise CheckpointError(f"{path}: truncated, corrupt, or no file of torch.save ({_reason(path, error)})") from error


def _reason(path: Path, error: Exception) -> str:
    """What the file is, where it begins like none of torch.save's; else what torch's unpickler found wrong. Before that
    it tells of its settings at length."""
    with open(path, "rb") as file:
        head = file.read(64)
    for start, what in _OTHERS.items():
        if head.lower().startswith(start):
            return what
    if head[8:9] == b"{":
        return "it looks like safetensors; such a file must be named .safetensors"
    if not head.startswith(_OURS):
        return f"it begins with {head[:8]!r}, as neither a zip archive nor a pickle does"
    if found := re.search(r"WeightsUnpickler error:\s*(.+)", str(error)):
        return found[1][:200]
    if first_line(error).startswith("Weights only load failed"):
        return "torch's unpickler cannot read it"
    return first_line(error)


def _load(path: Path, allowed: list[Any]) -> Any:
    """torch's restricted unpickler, which calls its own list of functions and `allowed` alone."""
    already = torch.serialization.get_safe_globals()
    # leaving the context takes away what it was given, which may not be what the program allowed before
    with torch.serialization.safe_globals([x for x in allowed if x not in already]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _foreign_objects(path: Path, error: Exception) -> set[str]:
    """Names of the functions and classes in the file that torch does not let it use, as far as they can be told."""
    found: set[str] = set()
    with contextlib.suppress(
        Exception
    ):  # not a zip archive, or a broken one: the reader's own message says what is wrong
        found = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    # other formats than zip archives cannot be asked for all of them
    if refused := re.search(r"Unsupported global: GLOBAL (\S+) was not an allowed global", str(error)):
        found.add(refused[1])
    if refused := re.search(r"unsupported GLOBAL (\S+) whose module", str(error)):
        found.add(refused[1])
    return {name if "." in name else f"builtins.{name}" for name in found} - {_NAMESPACE}


def first_line(e: Exception) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:200]
