"""Checkpoints of a run: written atomically, found again, and complete: everything that the next step depends on.

A file is a dict of `torch.save`, of tensors and plain values only (`torch.load(weights_only=True)` reads it):
`model`, `optimizer`, `scaler`, `epoch` and `args` as upstream's, `model_ema` where there is one, and `run` with the
position and the random states. Model and optimizer are written whole and in upstream's form, sharded or not.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.files import first_line, read_file
from ..errors import CheckpointError, TrainingError
from .parallel import bare, is_sharded

_EPOCH, _PARTIAL = re.compile(r"checkpoint-(\d+)\.pth"), re.compile(r"partial-(\d+)-(\d+)\.pth")


@dataclass(frozen=True, order=True)
class Position:
    """The next optimizer step of a run."""

    epoch: int = 0
    step: int = 0  # within the epoch


def write(content: dict[str, Any], path: Path) -> None:
    """Writes a file that is either whole or absent: an older one stays until the new one is on the disk.

    Raises:
        TrainingError: it cannot be written; what was there is untouched.
    """
    partial = path.with_name(f".{path.name}.writing")
    try:
        with open(partial, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch's writer turns some of the first into the second
        why = _why_not_written(error, path.parent)
        with contextlib.suppress(OSError):
            partial.unlink()
        kept = " (the older file of this name is intact)" if path.exists() else ""
        raise TrainingError(f"cannot save {path}{kept}: {why}") from error


def _why_not_written(error: Exception, folder: Path) -> str:
    """What the system said, which may lie behind torch's own error; else how much room the disk has."""
    reason: BaseException | None = error
    while reason is not None:
        if isinstance(reason, OSError):
            return reason.strerror or str(reason)
        reason = reason.__cause__ or reason.__context__
    if "inline_container" not in str(error):  # torch's writer of files
        return first_line(error)
    try:
        room = f"{shutil.disk_usage(folder).free / 1e6:.1f} MB are free"
    except OSError:
        room = "its free space is not known"
    return f"the disk may be full ({room})"


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read(path: Path) -> dict[str, Any]:
    """A file of :func:`write`, or of upstream's training.

    Raises:
        TrainingError: missing, damaged, or no dict with a model.
    """
    try:
        content = read_file(path)
    except CheckpointError as error:
        raise TrainingError(str(error)) from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise TrainingError(f"{path}: no training checkpoint: it holds no 'model'")
    return content


def arguments(content: Mapping[str, Any]) -> dict[str, Any]:
    """Of the run that wrote a checkpoint, by name. Upstream's are a Namespace; a file may have none, or
    something else of that name."""
    held = content.get("args") or {}
    return held if isinstance(held, dict) else vars(held) if isinstance(held, argparse.Namespace) else {}


class Folder:
    """The checkpoints of a run in its output folder.

    `checkpoint-E.pth` after epoch E, of which the newest `keep` stay; `partial-E-S.pth` within epoch E before step S,
    of which the newest stays until its epoch is over.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self.path, self.keep = path, keep

    def found(self) -> list[tuple[Position, Path]]:
        """Oldest first."""
        places = []
        for file in self.path.glob("*.pth"):
            if match := _EPOCH.fullmatch(file.name):
                places.append((Position(int(match[1]) + 1, 0), file))
            elif match := _PARTIAL.fullmatch(file.name):
                places.append((Position(int(match[1]), int(match[2])), file))
        return sorted(places)

    def newest(self, warn: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        """The newest that can be read; `warn(text)` hears of those that cannot."""
        for _, file in reversed(self.found()):
            try:
                return file, read(file)
            except TrainingError as error:
                warn(f"{error}; trying an older one")
        return None

    def save(self, content: dict[str, Any], at: Position) -> Path:
        """Writes a run that is to go on at `at`, and deletes what is no longer wanted."""
        name = f"checkpoint-{at.epoch - 1}.pth" if at.step == 0 else f"partial-{at.epoch}-{at.step}.pth"
        write(content, self.path / name)
        before = [(place, file) for place, file in self.found() if place <= at]
        whole = [file for place, file in before if place.step == 0]
        stale = [file for place, file in before if place.step > 0 and place < at]
        for file in [*whole[: -self.keep], *stale]:
            with contextlib.suppress(OSError):  # the new one is written, which is what counts
                file.unlink(missing_ok=True)
        return self.path / name

    def make(self) -> None:
        """Makes the folder.

        Raises:
            TrainingError: it cannot be made.
        """
        with self._needed():
            self.path.mkdir(parents=True, exist_ok=True)

    def tidy(self) -> None:
        """Removes what a killed process was writing.

        Raises:
            TrainingError: it cannot be removed.
        """
        with self._needed():
            for file in self.path.glob(".*.writing"):
                file.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _needed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingError(f"{self.path}: cannot be an output folder: {error}") from error


def random_state(device: torch.device) -> dict[str, Any]:
    """Of torch on the CPU and on `device`, Python and NumPy, as plain values and tensors."""
    import numpy

    generator: Any = numpy.random.get_state()
    kind, keys, at, has_gauss, gauss = generator
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype("int64")), at, has_gauss, gauss),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    import numpy

    torch.set_rng_state(state["torch"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, at, has_gauss, cached = state["numpy"]
    numpy.random.set_state((kind, keys.numpy().astype("uint32"), at, has_gauss, cached))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """Whole, on every process that must take part."""
    if not is_sharded(model):
        return bare(model).state_dict()
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    whole: Any = get_model_state_dict(model, options=_whole())
    return whole


def load_model_state(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Strictly.

    Raises:
        TrainingError: other tensors than the model's.
    """
    try:
        if is_sharded(model):
            from torch.distributed.checkpoint.state_dict import set_model_state_dict

            values: Any = state
            set_model_state_dict(model, values, options=_whole())
        else:
            bare(model).load_state_dict(state)
    except RuntimeError as error:
        detail = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise TrainingError(f"{path}: holds another model than this run's: {detail}") from error


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Whole, in torch's own form: parameters by number."""
    if not is_sharded(model):
        return optimizer.state_dict()
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    named: Any = get_optimizer_state_dict(model, optimizer, options=_whole())
    if not named.get("state") and not named.get("param_groups"):  # all but the first process
        return {}
    number = {name: i for i, name in enumerate(n for group in named["param_groups"] for n in group["params"])}
    groups = [{**group, "params": [number[name] for name in group["params"]]} for group in named["param_groups"]]
    return {"state": {number[name]: value for name, value in named["state"].items()}, "param_groups": groups}


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """From a file that was written sharded or not."""
    if not is_sharded(model):
        optimizer.load_state_dict(state)
        return
    from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

    names = {id(p): name for name, p in model.named_parameters()}
    ordered = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    groups = [{**group, "params": [ordered[i] for i in group["params"]]} for group in state["param_groups"]]
    named: Any = {"state": {ordered[i]: value for i, value in state["state"].items()}, "param_groups": groups}
    set_optimizer_state_dict(model, optimizer, named, options=_whole())


def _whole() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=True)


def seed(value: int) -> None:
    """torch on every device, Python and NumPy."""
    import numpy

    torch.manual_seed(value)
    random.seed(value)
    numpy.random.seed(value & 0xFFFFFFFF)
