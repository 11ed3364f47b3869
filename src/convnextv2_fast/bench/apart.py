"""The rows of `bench` on a CPU: each is built, checked and timed in processes of its own, in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import alone, providers
from .alone import Contender, Result
from .peers import Unavailable
from .providers import Request
from .rows import ROUND_SECONDS, Row, compare
from .worker import Failed, Subject, Turn, WrongResult

_REFERENCE = "reference.pt"


def subject(shared: Path, request: Mapping[str, Any], label: str, limit: float) -> Subject:
    """One row, in a worker; `limit` is how far its output may lie from the torch backend's."""
    row = providers.one(Request.of(request), label, shared)
    if row.error is not None:
        raise Unavailable(row.error) if row.absent else Failed(row.error)

    def check() -> dict[str, Any]:
        compare(row, torch.load(shared / _REFERENCE), limit, torch.device("cpu"))
        if row.error is not None:
            raise WrongResult(row.error)
        return {"difference": row.difference}

    return Subject(lambda i: row.step(), check, row.context)


def measure(
    request: Request,
    want: Tensor,
    limit: float,
    *,
    turns: int,
    warmup: int,
    rounds: int,
    neighbour: bool,
    after: Callable[[], object],
    rows: list[Row],
) -> None:
    """Checks and times the rows of a request on the CPU.

    Args:
        want: the torch backend's output, float64.
        limit: how far, relatively, an output may lie from it.
        turns: processes that time each row, one after the other.
        warmup, rounds: calls and times of each process.
        neighbour: whether a busy process runs beside them.
        after: called after each process.
        rows: takes what was measured, also when it is interrupted.
    """
    entries = {entry.label: entry for entry in providers.entries(request)}
    where = f"{__name__}:{subject.__name__}"
    contenders = {
        label: Contender(where, {"request": request.plain(), "label": label, "limit": limit}) for label in entries
    }
    turn = Turn(max(warmup, 1) - 1, 0.0, rounds, ROUND_SECONDS, least=rounds)
    results: dict[str, Result] = {}
    try:
        with alone.folder() as shared:
            torch.save(want, shared / _REFERENCE)
            alone.in_turn(contenders, shared, turns=turns, turn=turn, neighbour=neighbour, after=after, results=results)
    finally:
        for label, result in results.items():
            row = Row(label, ops=entries[label].ops, difference=result.info.get("difference"), timing=result.timing)
            row.error, row.absent = result.error, result.kind == "unavailable"
            rows.append(row)
