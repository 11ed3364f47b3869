"""How `bench` takes times: each row checked first, then rounds interleaved over all rows."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

SILENCE = 0.02  # seconds before a turn on a CPU: idle threads of another runtime spin for a while, and take its cores
ROUND_SECONDS = 0.01  # a round is repeated calls for at least so long, so that neither clock nor launch decides


@dataclass
class Row:
    """One way to run the model, and what was measured of it.

    Attributes:
        label: as in the table.
        step: one call: a forward, or a forward and backward; returns the outputs to compare.
        context: enters the backend that the row is about.
        ops: for each op of the model, the backends that run it; empty where no op of this library takes part.
        difference: of the outputs from those of the torch backend, relative (Euclidean norms).
        calls: calls per round. times: milliseconds per call, one number per round.
        extra_memory: peak bytes on the GPU during a call beyond what was there before it.
        error: why there are no times. absent: because the package it needs is not there, which is nobody's failure.
    """

    label: str
    step: Callable[[], Tensor]
    context: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    ops: dict[str, list[str]] = field(default_factory=dict)
    difference: float | None = None
    calls: int = 1
    times: list[float] = field(default_factory=list)
    extra_memory: int | None = None
    error: str | None = None
    absent: bool = False

    def percentiles(self) -> tuple[float, float, float]:
        """20th, 50th (the median) and 80th percentile of the times."""
        if len(self.times) == 1:
            return (self.times[0],) * 3
        fifths = statistics.quantiles(self.times, n=5, method="inclusive")
        return fifths[0], statistics.median(self.times), fifths[3]

    def spread(self) -> float:
        """From the 20th to the 80th percentile, relative to the median."""
        low, middle, high = self.percentiles()
        return (high - low) / middle


def output(row: Row, device: torch.device) -> Tensor:
    """What the row computes, in float64; FCMAE with the same mask for every row."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), row.context():
        torch.manual_seed(0)
        return row.step().double()


def compare(row: Row, want: Tensor, limit: float, device: torch.device) -> None:
    """Runs the row once and sets its difference, or its error where that is above the limit: then it gets no times."""
    got = output(row, device)
    if got.shape != want.shape:
        row.error = f"its output has shape {tuple(got.shape)}, the torch backend's {tuple(want.shape)}"
        return
    difference = ((got - want).norm() / want.norm()).item()
    if not difference <= limit:
        row.error = f"its output differs from the torch backend's by {difference:.1e}, allowed {limit:.1e}"
    row.difference = difference if math.isfinite(difference) else None


def _milliseconds(row: Row, device: torch.device) -> float:
    """Per call, over one round. On a GPU by events, so that only its own time counts."""
    with row.context():
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(row.calls):
                row.step()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / row.calls
        begin = time.perf_counter()
        for _ in range(row.calls):
            row.step()
        return (time.perf_counter() - begin) * 1e3 / row.calls


def warm_up(row: Row, device: torch.device, calls: int) -> None:
    """Calls the row `calls` times and at least once, then settles how many calls make a round, and measures memory."""
    last = 0.0
    for _ in range(max(calls, 1)):
        last = _milliseconds(row, device)
    row.calls = max(1, math.ceil(ROUND_SECONDS * 1e3 / max(last, 1e-3)))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        with row.context():
            row.step()
        row.extra_memory = torch.cuda.max_memory_allocated(device) - before


def rounds(rows: Sequence[Row], device: torch.device, number: int) -> Iterator[None]:
    """`number` rounds over all rows, each round beginning with another row; yields after each time taken."""
    for r in range(number):
        for i in range(len(rows)):
            row = rows[(r + i) % len(rows)]
            if device.type == "cpu" and len(rows) > 1:
                time.sleep(SILENCE)
                with row.context():
                    row.step()  # untimed: wakes this row's own threads
            row.times.append(_milliseconds(row, device))
            yield
