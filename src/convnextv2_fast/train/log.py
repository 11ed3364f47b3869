"""What a run writes down: `log.txt` (a JSON line an epoch, upstream's keys), `steps.jsonl` (a line an optimizer step),
TensorBoard, and what a person reads meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from . import TrainingError
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
                raise TrainingError(f"{path}: line {number} is no JSON") from None
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
            self._writer = SummaryWriter(str(tensorboard), purge_step=done)
        self._show = _Display(title, total, done) if active else None

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


class _Display:
    """A progress bar on a terminal; elsewhere a line every few seconds."""

    SECONDS = 10.0

    def __init__(self, title: str, total: int, done: int) -> None:
        self.total, self._said, self._bar, self._task = total, 0.0, None, None
        with contextlib.suppress(ImportError):
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            console = Console(stderr=True)
            if console.is_terminal:
                columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
                self._bar = Progress(*columns, TextColumn("{task.fields[now]}"), console=console)
                self._bar.start()
                self._task = self._bar.add_task(title, total=total, completed=done, now="")
        self._began, self._first = time.monotonic(), done

    def say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def steps(self, last: Record, images_per_second: float) -> None:
        done = last["step"] + 1
        now = f"epoch {last['epoch']}  loss {last['loss']:.4f}  {images_per_second:.1f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, now=now)
        elif time.monotonic() - self._said > self.SECONDS or done == self.total:
            self._said = time.monotonic()
            left = (self._said - self._began) / max(done - self._first, 1) * (self.total - done)
            print(f"step {done}/{self.total}  {now}  {duration(left)} left", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def duration(seconds: float) -> str:
    """`1:02:03`."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
