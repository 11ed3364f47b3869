"""The losses of an epoch: read back from the device together, written down, judged."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from ..errors import TrainingError
from . import advice
from .lines import Record
from .run import Run

WAIT = 5.0  # seconds that a person waits for a sign of life
BAD_STEPS = 20  # with a loss that is no number, in a row, that a scaler may skip


class Losses:
    """Losses of an epoch's steps. They stay on the device until `log_freq` of them are read back together, or, where
    no other process has to take part, for :data:`WAIT` seconds."""

    def __init__(self, run: Run, epoch: int) -> None:
        self.run, self.epoch, self.rate = run, epoch, 0.0
        self.waiting: list[tuple[int, float, Tensor, Tensor | None]] = []
        self.sum, self.count = run.carried
        self.bad, self.since = 0, time.monotonic()

    def add(self, step: int, loss: Tensor, norm: Tensor | None) -> None:
        self.waiting.append((step, self.rate, loss.float(), norm))
        late = self.run.among.size == 1 and time.monotonic() - self.since > WAIT
        if late or len(self.waiting) >= self.run.config.log_freq:
            self.flush()

    def flush(self) -> tuple[float, int]:
        """Reads back, writes down and judges; returns the epoch's sum and number of losses so far.

        Raises:
            TrainingError: a loss is no number.
        """
        if not self.waiting:
            return self.sum, self.count
        run, first = self.run, self.epoch * self.run.steps.per_epoch
        values = run.among.mean(torch.stack([loss for _, _, loss, _ in self.waiting])).tolist()
        norms = [None if n is None else float(n) for _, _, _, n in self.waiting]
        records: list[Record] = []
        for (step, rate, _, _), loss, norm in zip(self.waiting, values, norms, strict=True):
            records.append({"step": first + step, "epoch": self.epoch, "loss": loss, "lr": rate})
            if norm is not None:
                records[-1]["grad_norm"] = norm
            self.bad = 0 if math.isfinite(loss) else self.bad + 1
            if self.bad > (BAD_STEPS if run.scaler.is_enabled() else 0):
                raise TrainingError(advice.diverged(run, f"the loss is {loss} at epoch {self.epoch}, step {step}"))
            self.sum += loss
            self.count += 1
        now = time.monotonic()
        run.log.steps(records, len(records) * run.steps.images / max(now - self.since, 1e-9))
        self.waiting, self.since = [], now
        return self.sum, self.count

    def mean(self) -> float:
        """Of the epoch's steps."""
        self.flush()
        return self.sum / max(self.count, 1)
