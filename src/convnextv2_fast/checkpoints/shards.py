"""Checkpoints in several files: `model.safetensors.index.json` and `pytorch_model.bin.index.json`, as Hugging Face's
libraries write them. The index says which file holds which tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from .readers import first_line, read_one


def read_index(path: Path) -> dict[str, Tensor]:
    """All tensors that an index names, in its order.

    Raises:
        CheckpointError: the index or one of its files is missing or damaged, or a tensor is not where it should be.
    """
    files = _files(path)
    found: dict[str, Tensor] = {}
    for file in sorted(set(files.values())):
        shard = path.parent / file
        if not shard.is_file():
            raise CheckpointError(f"{path}: the file {file}, which it names, is not beside it")
        content = read_one(shard)
        if not isinstance(content, Mapping):
            raise CheckpointError(f"{shard}: expected a state dict, got a {type(content).__name__}")
        for name in (name for name, place in files.items() if place == file):
            if not isinstance(content.get(name), Tensor):
                raise CheckpointError(f"{path}: {name} should be in {file}, and is not")
            found[name] = content[name]
    return {name: found[name] for name in files}


def _files(path: Path) -> dict[str, str]:
    """The index's table, name -> file."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as e:
        raise CheckpointError(f"{path}: truncated, corrupt, or no JSON ({first_line(e)})") from e
    table = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(table, dict) or not table or not all(isinstance(file, str) for file in table.values()):
        raise CheckpointError(f"{path}: no index of a checkpoint: it has no weight_map of names to files")
    for file in table.values():
        # a plain name: an index must not lead out of its folder
        if not file or file in (".", "..") or any(c in file for c in "/\\:\0"):
            raise CheckpointError(f"{path}: names the file {file!r}; the files of a checkpoint lie beside its index")
    return table
