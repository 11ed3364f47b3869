"""The rows of the command `bench`: each is checked first, then all of them are timed together."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .settings import one_line
from .timing import Timing, interleaved, peak_memory, watch_for

SILENCE = 0.02  # seconds before a turn on a CPU: idle threads of another runtime spin for a while, and take its cores
ROUND_SECONDS = 0.01  # a round is repeated calls for at least so long, so that neither clock nor launch decides


def _unbuilt() -> Tensor:
    raise AssertionError("this row was not built in this process")


@dataclass
class Row:
    """One way to run the model, and what was measured of it.

    Attributes:
        label: as in the table.
        step: one call: a forward, or a forward and backward; returns the outputs to compare. Without it the row only
            holds what was measured elsewhere.
        context: enters the backend that the row is about.
        ops: for each op of the model, the backends that run it; empty where no op of this library takes part.
        difference: of the outputs from those of the torch backend, relative (Euclidean norms).
        timing: seconds per call, one number per round, or the median of each process that measured it.
        extra_memory: peak bytes on the GPU during a call beyond what was there before it.
        error: why there are no times. absent: because the package it needs is not there, which is nobody's failure.
    """

    label: str
    step: Callable[[], Tensor] = _unbuilt
    context: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    ops: dict[str, list[str]] = field(default_factory=dict)
    difference: float | None = None
    timing: Timing = field(default_factory=Timing)
    extra_memory: int | None = None
    error: str | None = None
    absent: bool = False

    @property
    def timed(self) -> bool:
        return bool(self.timing.seconds)


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
    if row.error is None:
        with row.context():
            row.extra_memory = peak_memory(lambda i: row.step(), device.type)


def take(
    rows: Sequence[Row], device: torch.device, *, warmup: int, rounds: int, after: Callable[[], object] = lambda: None
) -> None:
    """Times the rows that have no error, interleaved; `after` is called after each turn. A row that fails gets an
    error; an interrupt leaves each row what was measured of it."""
    found: dict[str, Timing | Exception] = {}
    able = {str(i): row for i, row in enumerate(rows) if row.error is None}
    try:
        interleaved(
            {name: lambda i, row=row: row.step() for name, row in able.items()},  # type: ignore[misc]
            watch=watch_for(device.type),
            rounds=rounds,
            warmup=max(warmup, 1) - 1,  # and the call that settles how many make a round
            round_seconds=ROUND_SECONDS,
            settle=SILENCE if device.type == "cpu" and len(able) > 1 else 0.0,
            within=lambda name: able[name].context(),
            after=after,
            results=found,
        )
    finally:
        for name, result in found.items():
            if isinstance(result, Timing):
                able[name].timing = result
            else:
                able[name].error = one_line(result, 1)
