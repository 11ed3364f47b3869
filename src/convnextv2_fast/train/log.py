"""What a run writes down: `log.txt` (a JSON line an epoch, upstream's keys), `steps.jsonl` (a line an optimizer step),
TensorBoard, and what a person reads meanwhile."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import TrainingError
from .display import Display
from .saving import Position

Record = dict[str, Any]


def write_lines(path: Path, records: list[Record]) -> None:
    """Replaces a file at once."""
    partial = path.with_name(f".{path.name}.writing")
    partial.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    os.replace(partial, path)


def read_lines(path: Path) -> list[Record]:
    """The records of a file of JSON lines; a last line that was cut off is left out.

    Raises:
        TrainingError: no such file, or another line is no JSON.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: cannot read it: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise TrainingError(f"{path}: line {number} is not JSON") from None
    return found


class Log:
    """Of the first process; the others' does nothing.

    Args:
        folder: for `log.txt` and `steps.jsonl`; None writes neither.
        tensorboard: folder of its event files, or None.
        start: lines of what came after it, in a run that was cut off, are removed.
        total: optimizer steps of the whole run. per_epoch: of an epoch.
    """

    def __init__(
        self,
        folder: Path | None,
        tensorboard: Path | None,
        active: bool,
        start: Position,
        total: int,
        per_epoch: int,
        title: str,
    ) -> None:
        self.active = active
        self.folder = folder if active else None
        self._writer: Any = None
        done = start.epoch * per_epoch + start.step
        if self.folder is not None:
            for name, key, first in (("log.txt", "epoch", start.epoch), ("steps.jsonl", "step", done)):
                path = self.folder / name
                if path.exists():
                    write_lines(path, [r for r in read_lines(path) if r[key] < first])
        if tensorboard is not None and active:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise TrainingError("--log_dir needs tensorboard: pip install tensorboard") from error
            try:
                self._writer = SummaryWriter(str(tensorboard), purge_step=done)
            except OSError as error:
                raise TrainingError(f"--log_dir {tensorboard}: cannot be a folder for TensorBoard: {error}") from error
        self._show = Display(title, total, done) if active else None

    def say(self, text: str) -> None:
        """A line for a person."""
        if self._show is not None:
            self._show.say(text)

    def steps(self, records: list[Record], images_per_second: float) -> None:
        """Finished optimizer steps: `step` (of the run), `epoch`, `loss`, `lr`."""
        if not self.active or not records:
            return
        if self.folder is not None:
            with open(self.folder / "steps.jsonl", "a", encoding="utf-8") as file:
                file.write("".join(json.dumps(r) + "\n" for r in records))
        if self._writer is not None:
            for r in records:
                for key in ("loss", "lr", "grad_norm"):
                    if key in r:
                        self._writer.add_scalar(f"train/{key}", r[key], r["step"])
            self._writer.add_scalar("train/images_per_second", images_per_second, records[-1]["step"])
        if self._show is not None:
            self._show.steps(records[-1], images_per_second)

    def epoch(self, record: Record) -> None:
        """A finished epoch: `train_loss`, `train_lr`, `epoch`, `n_parameters` and what was evaluated."""
        if not self.active:
            return
        if self.folder is not None:
            with open(self.folder / "log.txt", "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        if self._writer is not None:
            for key, value in record.items():
                if key.startswith("test_"):
                    self._writer.add_scalar(f"test/{key.removeprefix('test_')}", value, record["epoch"])
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._show is not None:
            self._show.close()
