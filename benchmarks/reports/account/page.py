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


def belongs(row: Row, part: str) -> bool:
    """Whether a part left a row: most rows name it, those of ceilings and of whole models a question of their own."""
    return row.part == part or row.part in {"host": ("ceilings",), "ratios": MODELS}.get(part, ())


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


MODELS = ("inference", "training", "pretraining")
OUR_MODES = ("eager", "graph", "frozen", "compile", "reduce-overhead")
PEER_MODES = ("compile", "max-autotune")


def models(rows: Iterable[Row]) -> list[list[str]]:
    """A line for each whole model and batch: milliseconds of every provider and mode, and the time of the fastest peer
    over that of our fastest way."""
    groups: dict[tuple[str, int], dict[tuple[bool, str], float]] = {}
    for row in rows:
        if row.part in MODELS and row.ms is not None:
            groups.setdefault((row.part, row.batch or 0), {})[row.provider == naming.OURS, row.mode] = row.ms
    wanted = [*((True, mode) for mode in OUR_MODES), *((False, mode) for mode in PEER_MODES)]
    head = (mode if ours else f"peer {mode}" for ours, mode in wanted)
    cells = [["ms", "batch", *head, "peer / ours"]]
    for (part, batch), found in sorted(groups.items(), key=lambda group: (MODELS.index(group[0][0]), group[0][1])):
        best = {
            side: min((ms for (ours, _), ms in found.items() if ours == side), default=0.0) for side in (True, False)
        }
        ratio = f"{best[False] / best[True]:.2f}" if best[True] and best[False] else ""
        times = (f"{found[key]:.3f}" if key in found else "" for key in wanted)
        cells.append([part, str(batch), *times, ratio])
    return cells


def steps(rows: Iterable[Row]) -> list[list[str]]:
    """A line for each step that was profiled: its time, and that of its kernels. What is between them is the host's."""
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in rows:
        mode, _, what = row.mode.partition(": ")
        if row.part == "profile" and what in ("wall", "gpu: all"):
            line = found.setdefault((row.case, row.provider, mode), {})
            line[what] = f"{row.ms:.3f}"
            line |= {"launches": row.notes["calls"]} if what == "gpu: all" else {}
    head = ["step", "provider", "mode", "ms", "kernels, ms", "launches"]
    return [
        head,
        *([*key, *(line.get(name, "") for name in ("wall", "gpu: all", "launches"))] for key, line in found.items()),
    ]


def slowest(rows: Iterable[Row], most: int = 10) -> list[list[str]]:
    """The kernels that take longest in our steps: calls, milliseconds, and the share of all kernels' time."""
    ours = [row for row in rows if row.part == "profile" and row.provider == naming.OURS and row.ms is not None]
    whole = {row.case: row.ms or 0.0 for row in ours if row.mode.endswith(": gpu: all")}
    cells = [["step", "kernel", "calls", "ms", "share, %"]]
    for case, total in whole.items():
        kernels = [row for row in ours if row.case == case and ": gpu " in row.mode]
        for row in sorted(kernels, key=lambda row: -(row.ms or 0.0))[:most]:
            _, _, name = row.mode.partition(": gpu ")
            ms = row.ms or 0.0
            cells.append([case, f"`{name}`", row.notes.get("calls", ""), f"{ms:.3f}", f"{100 * ms / total:.0f}"])
    return cells


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
    tables = (parts, models(rows), steps(rows))
    return "\n\n".join([f"{where}{state}", *("\n".join(columns(table)) for table in tables if len(table) > 1)])
