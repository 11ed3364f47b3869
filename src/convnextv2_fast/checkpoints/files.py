"""Read a checkpoint, in whatever form it comes, and find the state dict in it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import CheckpointError
from .containers import StateDict, unwrap
from .readers import first_line as first_line  # used by what reports a reader's errors
from .readers import read_one
from .shards import read_index

Source = str | os.PathLike[str] | Mapping[str, Any]
_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".index.json")  # what a folder's files may be called
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # two letters at least: one is a drive


def read_state_dict(path_or_dict: Source, use_ema: bool | str = "auto") -> dict[str, Tensor]:
    """The flat state dict of a checkpoint file (read to the CPU) or of a loaded checkpoint, names as they stand there.

    Args:
        path_or_dict: `.safetensors`, any file of `torch.save`, the index (`.index.json`) of a checkpoint in several
            files, or a mapping. Where the state dict may lie in it: see `containers.unwrap`.
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
        return unwrap(read_file(path), use_ema, str(path))
    if isinstance(path_or_dict, Mapping):
        return unwrap(path_or_dict, use_ema, what)
    advice = "; pass its state_dict()" if isinstance(path_or_dict, nn.Module) else ""
    raise TypeError(f"expected a path or a state dict, got a {type(path_or_dict).__name__}{advice}")


def read_file(path: Path) -> Any:
    """The whole content of a checkpoint file, on the CPU.

    Raises:
        CheckpointError: it is not there, or cannot be read. The message begins with the path.
    """
    if os.path.isdir(path):
        raise CheckpointError(f"{path}: is a directory; {_instead(path)}")
    if not os.path.exists(path):  # unlike pathlib's, False for what can be no path
        raise CheckpointError(_absent(path))
    return read_index(path) if path.suffix == ".json" else read_one(path)


def _instead(folder: Path) -> str:
    """What to give in place of a directory."""
    if (folder / ".metadata").is_file():
        return (
            "torch.distributed.checkpoint wrote it; torch.distributed.checkpoint.format_utils.dcp_to_torch_save makes "
            "one file of it"
        )
    held = sorted(f.name for f in folder.iterdir() if f.name.endswith(_WEIGHTS)) if os.access(folder, os.R_OK) else []
    indices = [name for name in held if name.endswith(".index.json")]
    names = ", ".join((indices or held)[:4]) or "model.safetensors or pytorch_model.bin"
    return f"give the file in it, such as {names}"


def _absent(path: Path) -> str:
    text = str(path)
    if not _SCHEME.match(text):
        return f"{text}: no such file"
    url = re.sub(r":/(?!/)", "://", text, count=1)  # paths lose one of two slashes
    name = url.split("?")[0].rpartition("/")[2] or "checkpoint.pth"
    return (
        f"{text}: is a URL, and only files are read; download it, for example by "
        f"torch.hub.download_url_to_file({url!r}, {name!r}), and give {name!r}"
    )
