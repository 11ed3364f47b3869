"""The figures and their ceilings: `figures.tsv`, and the tables made of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

TABLE = Path(__file__).with_name("figures.tsv")
ELSEWHERE = 1.25
COLUMNS = ("part", "figure", "unit", "value", "ceiling", "source")


@dataclass(frozen=True)
class Figure:
    part: str  # of `parts.PARTS`
    name: str
    unit: str
    value: float
    source: str
    # A new ceiling, in values: 1 where a figure is counted, more where it wavers, None where it is another one on every
    # machine.
    room: float | None = 1.0
    ceiling: float | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        return self.part, self.name, self.unit


@dataclass(frozen=True)
class Table:
    made_with: Mapping[str, str]  # tools with their versions, and the machine
    figures: Sequence[Figure]

    def of(self, part: str) -> list[Figure]:
        return [figure for figure in self.figures if figure.part == part]


def written(number: float | None) -> str:
    return "" if number is None else f"{number:.2f}".rstrip("0").rstrip(".")


def read() -> Table:
    if not TABLE.exists():
        return Table({}, ())
    head, _, *lines = TABLE.read_text(encoding="utf-8").splitlines()
    figures = []
    for line in lines:
        part, name, unit, value, ceiling, source = line.split("\t")
        figures.append(Figure(part, name, unit, float(value), source, ceiling=float(ceiling) if ceiling else None))
    made_with = head.removeprefix("# made with ").split("; ")
    return Table(dict(each.split(" ", 1) for each in made_with), figures)


def write(table: Table) -> None:
    made_with = "; ".join(f"{tool} {version}" for tool, version in table.made_with.items())
    rows = [(f.part, f.name, f.unit, written(f.value), written(f.ceiling), f.source) for f in table.figures]
    lines = [f"# made with {made_with}", *("\t".join(row) for row in (COLUMNS, *rows))]
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def faults(found: Sequence[Figure], known: Sequence[Figure]) -> list[str]:
    """Figures above their ceilings; those that the table lacks, or has and nobody found."""
    ceilings = {f.key: f.ceiling for f in known}
    bad = [f"{f.name}, {f.unit}: not in the table" for f in found if f.key not in ceilings]
    gone = ceilings.keys() - {f.key for f in found}
    bad += [f"{name}, {unit}: in the table, but not found" for _, name, unit in sorted(gone)]
    for f in found:
        ceiling = ceilings.get(f.key)
        if ceiling is not None and round(f.value, 2) > ceiling:
            bad.append(f"{f.name}, {f.unit}: {written(f.value)}, the ceiling is {written(ceiling)}")
    return bad


def elsewhere(known: Sequence[Figure]) -> list[Figure]:
    """Figures with the ceilings of a machine that they were not found on: ratios of times differ between processors."""
    return [f if f.ceiling is None else replace(f, ceiling=ELSEWHERE * f.ceiling) for f in known]


def with_ceilings(found: Iterable[Figure], known: Sequence[Figure], may_rise: bool = False) -> list[Figure]:
    """The figures found, with the ceilings known, lower where the values allow it; with `may_rise`, with those that the
    values ask for. What wavers moves a ceiling only by more than 5 %, or it would creep down to the luckiest value."""
    ceilings = {f.key: f.ceiling for f in known}
    result = []
    for f in found:
        old, new = ceilings.get(f.key), None if f.room is None else round(f.value * f.room, 2)
        if old is not None and new is not None and not may_rise:
            new = new if new < (old if f.room == 1.0 else 0.95 * old) else old
        result.append(replace(f, ceiling=new))
    return result


def text(figures: Iterable[Figure]) -> str:
    """A table for a terminal."""
    rows = [COLUMNS[1:], *((f.name, f.unit, written(f.value), written(f.ceiling), f.source) for f in figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    form = "  ".join(f"{{:{'>' if n in (2, 3) else '<'}{width}}}" for n, width in enumerate(widths))
    return "\n".join(form.format(*row).rstrip() for row in rows)


# Of each part, its heading on a page and what a name may end with, after a comma, that has a column of its own there.
PAGE = {
    "code": ("Instructions of the kernels", ("sm_80", "sm_90")),
    "host": ("The host's time for a block", ("bfloat16 parameters", "autocast with float32 parameters")),
    "launches": ("Launches", ("bfloat16 parameters", "autocast with float32 parameters")),
}


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def page() -> str:
    """The values of `figures.tsv`, for a page."""
    table = read()
    made_with = ", ".join(f"{tool} {version}" for tool, version in table.made_with.items())
    lines = [f"Made with {made_with}."]
    for part, (title, columns) in PAGE.items():
        rows: dict[tuple[str, str], dict[str, str]] = {}
        for f in table.of(part):
            name, _, column = f.name.rpartition(", ")
            name, column = (name, column) if column in columns else (f.name, "")
            rows.setdefault((re.sub(r"^\w+_\w+(<.*>)?", r"`\g<0>`", name), f.unit), {})[column] = written(f.value)
        lines += ["", f"### {title}"]
        for head in (columns, ("",)):
            chosen = {row: cells for row, cells in rows.items() if cells.keys() & set(head)}
            if chosen:
                lines += ["", _row("", "unit", *head), _row(*["---"] * (2 + len(head)))]
                lines += [_row(*row, *(cells.get(column, "") for column in head)) for row, cells in chosen.items()]
    return "\n".join(lines)
