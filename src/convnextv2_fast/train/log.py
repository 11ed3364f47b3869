"""What a run writes down: `log.txt` (a JSON line an epoch, upstream's keys), `steps.jsonl` (a line an optimizer step),
TensorBoard, and what a person reads meanwhile."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from ..checkpoints.files import first_line
from ..errors import TrainingError
from .display import Display
from .lines import Lines, Record, read_lines, write_lines
from .saving import Position


class Log:
    """Of the first process; the others' does nothing. A disk that is full or read-only does not end a run.

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
        folder = folder if active else None
        self._show: Display | None = None
        self._epochs = Lines(folder / "log.txt", self.say) if folder is not None else None
        self._steps = Lines(folder / "steps.jsonl", self.say) if folder is not None else None
        self._writer: Any = None
        done = start.epoch * per_epoch + start.step
        for file, key, first in ((self._epochs, "epoch", start.epoch), (self._steps, "step", done)):
            if file is not None and file.path.exists():
                write_lines(file.path, [r for r in read_lines(file.path) if _before(r.get(key), first)])
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
        if self._steps is not None:
            self._steps.add(records)
        scalars = [(f"train/{k}", r[k], r["step"]) for r in records for k in ("loss", "lr", "grad_norm") if k in r]
        self._board([*scalars, ("train/images_per_second", images_per_second, records[-1]["step"])])
        if self._show is not None:
            self._show.steps(records[-1], images_per_second)

    def epoch(self, record: Record) -> None:
        """A finished epoch: `train_loss`, `train_lr`, `epoch`, `n_parameters` and what was evaluated."""
        if not self.active:
            return
        if self._epochs is not None:
            self._epochs.add([record])
        tested = {k.removeprefix("test_"): value for k, value in record.items() if k.startswith("test_")}
        self._board([(f"test/{key}", value, record["epoch"]) for key, value in tested.items()], flush=True)

    def _board(self, scalars: list[tuple[str, float, int]], flush: bool = False) -> None:
        """TensorBoard's writer does not work again after an error: it is given up."""
        if self._writer is None:
            return
        try:
            for scalar in scalars:
                self._writer.add_scalar(*scalar)
            if flush:
                self._writer.flush()
        except Exception as error:  # of its thread, handed on as it is
            self._writer = None
            self.say(f"error: TensorBoard's file cannot be written: {first_line(error)}; training continues without it")

    def close(self) -> None:
        for file in (self._epochs, self._steps):
            if file is not None:
                file.close()
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
        if self._show is not None:
            self._show.close()


def _before(place: Any, first: int) -> bool:
    """Whether a record stays when a run goes on at `first`; one that tells no place is not ours to remove."""
    return not isinstance(place, int | float) or place < first
