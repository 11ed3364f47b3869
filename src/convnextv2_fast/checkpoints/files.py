"""Read a checkpoint file and find the state dict in it. Nothing in a file is ever executed."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError

PLAIN_KEYS = ("model", "state_dict", "module")
EMA_KEYS = ("model_ema", "state_dict_ema")
Source = str | os.PathLike[str] | Mapping[str, Any]


@dataclass(frozen=True)
class StateDict:
    """A flat state dict and where it was."""

    tensors: Mapping[str, Tensor]
    what: str  # for messages: the path, or "the state dict"
    key: str = ""  # where in the checkpoint; empty: at the top
    unused_ema: str | None = None  # the key of a moving average that was not taken


def read_state_dict(path_or_dict: Source, use_ema: bool | str = "auto") -> dict[str, Tensor]:
    """The flat state dict of a checkpoint file (read to the CPU) or of a loaded checkpoint, names as they stand there.

    Args:
        path_or_dict: `.safetensors`, any file of `torch.save`, or a mapping; the state dict may lie under `model`,
            `state_dict` or `module`, its moving average under `model_ema` or `state_dict_ema`.
        use_ema: True: the moving average or an error; False: never; `"auto"`: only if there is nothing else
            (upstream's own `*_ema.pt` files hold it under `model`), or if the run wrote the file for its sake
            (`checkpoint-best-ema.pth` of this library's `finetune`).

    Raises:
        CheckpointError: missing, unreadable, truncated, or without weights. The message begins with the path.
    """
    return dict(find_state_dict(path_or_dict, use_ema).tensors)


def find_state_dict(path_or_dict: Source, use_ema: bool | str = "auto", what: str = "the state dict") -> StateDict:
    """`read_state_dict` with the place where it was found; `what` is how messages call a mapping."""
    if use_ema not in (True, False, "auto"):
        raise ValueError(f"use_ema must be True, False or 'auto', got {use_ema!r}")
    if isinstance(path_or_dict, str | os.PathLike):
        path = Path(path_or_dict)
        return _unwrap(read_file(path), use_ema, str(path))
    if isinstance(path_or_dict, Mapping):
        return _unwrap(path_or_dict, use_ema, what)
    raise TypeError(f"expected a path or a state dict, got a {type(path_or_dict).__name__}")


def read_file(path: Path) -> Any:
    if path.is_dir():
        raise CheckpointError(
            f"{path}: is a directory; give the file in it, such as model.safetensors or pytorch_model.bin"
        )
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
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
        # upstream's training scripts save their arguments, a Namespace, beside the weights
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as e:  # the unpickler lets nearly any exception through on a file that is not a checkpoint
        foreign = _foreign_objects(path)
        if foreign:
            raise CheckpointError(
                f"{path}: holds Python objects that may run code when read ({', '.join(foreign)}); if you trust it, "
                "pass what torch.load(path, weights_only=False) returns in its place"
            ) from e
        raise CheckpointError(f"{path}: truncated, corrupt, or no file of torch.save ({first_line(e)})") from e


def _foreign_objects(path: Path) -> list[str]:
    found: list[str] = []
    with contextlib.suppress(
        Exception
    ):  # not a zip archive, or a broken one: the reader's own message says what is wrong
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    return sorted(set(found) - {"argparse.Namespace"})


def first_line(e: Exception) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:200]


def _is_state_dict(x: Any) -> bool:
    return isinstance(x, Mapping) and bool(x) and all(isinstance(v, Tensor) for v in x.values())


def _unwrap(x: Any, use_ema: bool | str, what: str) -> StateDict:
    path: list[str] = []
    ema_key: str | None = None
    took_ema = False
    while not _is_state_dict(x):
        if not isinstance(x, Mapping):
            raise CheckpointError(f"{what}: expected a state dict{_under(path)}, got a {type(x).__name__}")
        plain = next((k for k in PLAIN_KEYS if isinstance(x.get(k), Mapping) and x[k]), None)
        ema = next((k for k in EMA_KEYS if isinstance(x.get(k), Mapping) and x[k]), None)
        ema_key = ema_key or ema
        if ema is not None and (use_ema is True or (use_ema == "auto" and (plain is None or x.get("chosen") == ema))):
            key, took_ema = ema, True
        elif plain is not None:
            key = plain
        else:
            raise CheckpointError(f"{what}: {_nothing(x, ema, path)}")
        path.append(key)
        x = x[key]
    if use_ema is True and not took_ema:
        raise CheckpointError(f"{what}: use_ema=True, but it holds no {' or '.join(EMA_KEYS)}")
    return StateDict(x, what, ".".join(path), None if took_ema else ema_key)


def _nothing(x: Mapping[Any, Any], ema: str | None, path: list[str]) -> str:
    if ema is not None:
        return f"holds weights only under {ema!r}, and use_ema=False"
    held = ", ".join(map(repr, list(x)[:8])) or "nothing"
    place = f"{_under(path)} it holds {held}".strip()
    odd = next((k for k, v in x.items() if not isinstance(v, Tensor)), None)
    if odd is not None and any(isinstance(v, Tensor) for v in x.values()):
        return f"no state dict: {odd!r} is a {type(x[odd]).__name__}, not a tensor"
    return f"holds no weights: {place}; expected a state dict, or one under {', '.join((*PLAIN_KEYS, *EMA_KEYS))}"


def _under(path: list[str]) -> str:
    return f" under {'.'.join(path)}" if path else ""
