"""The tables at the end of an account, made from its rows: what was measured, what was not and why, and the ratios."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from .. import naming, tidy
from ..tidy import Row

WIDTH = 118


@dataclass(frozen=True)
class Ended:
    """How a part ended. `outcome`: "done", "time was up", "crashed" or "not begun"; `rows`: measurements it left."""

    part: str
    outcome: str
    seconds: float
    rows: int
    note: str = ""


COLUMNS = tuple(field.name for field in fields(Ended))


def write_parts(path: Path, ended: Iterable[Ended]) -> None:
    """One line per part."""
    tidy.write_atomically(path, tidy.line(COLUMNS) + "".join(tidy.line(astuple(each)) for each in ended))


def read_parts(path: Path) -> list[Ended]:
    """The lines that `write_parts` wrote; none without a file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Ended(row["part"], row["outcome"], float(row["seconds"]), int(row["rows"]), row["note"])
            for row in csv.DictReader(file)
        ]


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells in columns, the last one cut to the width of a screen."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..." for line in lines]


def models(rows: Iterable[Row]) -> list[str]:
    """A line for each whole model, batch and provider: ms, and the time over that of our fastest way to run it."""
    groups: dict[tuple[str, str, int | None], list[Row]] = {}
    for row in rows:
        if row.part in ("inference", "training", "pretraining") and row.ms is not None:
            groups.setdefault((row.part, row.case, row.batch), []).append(row)
    cells = [("part", "batch", "provider", "mode", "ms", "times ours", "peak MiB")]
    for (part, _, batch), found in groups.items():
        ours = [row.ms for row in found if row.provider == naming.OURS and row.ms is not None]
        for row in found:
            assert row.ms is not None
            ratio = f"{row.ms / min(ours):.2f}" if ours else ""
            peak = "" if row.peak_mib is None else f"{row.peak_mib:.0f}"
            cells.append((part, str(batch), row.provider, row.mode, f"{row.ms:.3f}", ratio, peak))
    return columns(cells) if len(cells) > 1 else []


def summary(rows: Sequence[Row], ended: Sequence[Ended]) -> str:
    """The whole screen."""
    parts = [("part", "outcome", "seconds", "rows", "what was left out, and why")]
    parts += [(each.part, each.outcome, f"{each.seconds:.0f}", str(each.rows), each.note) for each in ended]
    origin = rows[0].origin if rows else None
    where = (
        f"{origin.machine}, torch {origin.torch}, Triton {origin.triton or 'none'}" if origin else "nothing measured"
    )
    state = ""
    if origin is not None:
        dirty = {True: ", with changes", False: "", None: ", state unknown"}[origin.dirty]
        state = f"; commit {origin.commit[:12] or 'unknown'}{dirty}"
    return "\n".join([f"{where}{state}", "", *columns(parts), "", *models(rows)])
