"""Results as data: one CSV per machine and day, one measurement per row.

| column | meaning |
|---|---|
| machine | GPU, or CPU with the instruction set of our code and its threads |
| torch, triton | versions; triton is empty where it is not installed |
| commit, dirty | commit of the tree, and whether it had uncommitted changes (1, 0; empty: not known) |
| part | the question that the row helps to answer: `inference`, `ops`, `numerics` and so on |
| case | what is computed, without batch and dtype: `convnextv2_tiny-224px-forward` |
| provider, mode | whose code, and how it runs: `timm`, `max-autotune` |
| batch, dtype | images (empty where there are none), and the dtype, or `amp` (autocast to bfloat16), `amp-float16` |
| ms, p20, p80 | median, 20th and 80th percentile in milliseconds; empty: the row is no timing |
| peak_mib | memory allocated at the peak, above what was there before, in MiB |
| rel_error | largest error against the reference, relative to its largest element |
| note | further figures as `name=value`, separated by `; ` |

Only measurements are rows: what was skipped or failed is said once per part, in the file beside it that ends in
`.parts.csv`.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"
LONGEST = 10_000  # characters of a cell
_FIGURES = ("ms", "p20", "p80", "peak_mib", "rel_error")


@dataclass(frozen=True)
class Origin:
    """What all rows of a run share."""

    machine: str
    torch: str
    triton: str = ""
    commit: str = ""
    dirty: bool | None = None

    @property
    def clean(self) -> bool:
        """Whether the run can be repeated from its commit."""
        return bool(self.commit) and self.dirty is False


@dataclass(frozen=True)
class Row:
    """One measurement. See the table above."""

    machine: str
    torch: str
    triton: str
    commit: str
    dirty: bool | None
    part: str
    case: str
    provider: str
    mode: str = ""
    batch: int | None = None
    dtype: str = ""
    ms: float | None = None
    p20: float | None = None
    p80: float | None = None
    peak_mib: float | None = None
    rel_error: float | None = None
    note: str = ""

    @classmethod
    def of(cls, origin: Origin, part: str, case: str, provider: str, **rest: Any) -> Row:
        """A row of a run. ValueError if it holds no figure, or one that is not finite."""
        return cls(*astuple(origin), part, case, provider, **rest)

    def __post_init__(self) -> None:
        found = [value for value in (getattr(self, name) for name in _FIGURES) if value is not None]
        if not found and not self.notes:
            raise ValueError(f"{self.key}: a row needs a figure")
        if not all(math.isfinite(value) for value in found):
            raise ValueError(f"{self.key}: a figure is not finite")

    @property
    def key(self) -> tuple[str, ...]:
        """What a row is recognised by within a file."""
        batch = "" if self.batch is None else str(self.batch)
        return (self.part, self.case, self.provider, self.mode, batch, self.dtype)

    @property
    def notes(self) -> dict[str, str]:
        """The figures of the note, as text."""
        pairs = (item.partition("=") for item in self.note.split("; "))
        return {name: value for name, equals, value in pairs if equals}

    @property
    def origin(self) -> Origin:
        return Origin(self.machine, self.torch, self.triton, self.commit, self.dirty)


COLUMNS = tuple(field.name for field in fields(Row))


def noted(**figures: object) -> str:
    """A note: `name=value` for everything that is not None."""
    return "; ".join(f"{name}={value}" for name, value in figures.items() if value is not None)


def _number(text: str) -> float | None:
    return float(text) if text else None


_PARSE: Mapping[str, Callable[[str], Any]] = {
    "dirty": lambda text: {"1": True, "0": False, "": None}[text],
    "batch": lambda text: int(text) if text else None,
    **dict.fromkeys(_FIGURES, _number),
}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).replace("\0", " ").split())[:LONGEST]


def line(cells: Iterable[Any]) -> str:
    """One line of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(_cell(cell) for cell in cells)
    return text.getvalue()


def read(path: Path) -> list[Row]:
    """The rows of a file. A last line that was cut off while it was written is left out.

    Raises:
        ValueError: other columns than these, or a row that cannot be read; the message names file and line.
    """
    rows = []
    for number, found in _lines(path, "strict"):
        if isinstance(found, Exception):
            raise ValueError(f"{path.name}, line {number}: {found}") from None
        rows.append(found)
    return rows


def readable(path: Path) -> list[Row]:
    """Those rows of a file that can be read: while a run goes on, one that was torn must not end it.

    Raises:
        ValueError: other columns than these.
    """
    return [found for _, found in _lines(path, "replace") if isinstance(found, Row)]


def _lines(path: Path, errors: str) -> Iterator[tuple[int, Row | Exception]]:
    """The number of each line, and its row or why there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors=errors)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: {error}") from None
    head, *lines = text[: text.rfind("\n") + 1].split("\n")[:-1] or [""]
    if head != line(COLUMNS).rstrip("\n"):
        raise ValueError(f"{path.name}: the columns are not {', '.join(COLUMNS)}")
    for number, each in enumerate(lines, start=2):
        try:
            (cells,) = csv.reader([each])
            pairs = zip(COLUMNS, cells, strict=True)
            yield number, Row(**{name: _PARSE.get(name, str)(text) for name, text in pairs})
        except (ValueError, KeyError, csv.Error) as error:
            yield number, error


def write(path: Path, rows: Iterable[Row]) -> None:
    """Writes a file as a whole."""
    write_atomically(path, line(COLUMNS) + "".join(line(astuple(row)) for row in rows))


def append(path: Path, row: Row) -> None:
    """Adds one row, in a single write: several processes may add to one file."""
    with path.open("ab", buffering=0) as file:
        file.write(line(astuple(row)).encode())


def merge(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """All rows; where two have one key, the new one in the old one's place."""
    found = {row.key: row for row in old}
    found.update((row.key, row) for row in new)
    return list(found.values())


def write_atomically(path: Path, text: str) -> None:
    """Replaces the file in one step: a reader, or a run cut short, sees the old text or the new, never half of one."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def slug(machine: str) -> str:
    """A machine's name as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((?:r|tm)\)", "", machine.lower())).strip("-")


def file_for(origin: Origin, date: str, directory: Path = RESULTS) -> Path:
    """Where the rows of this machine and day belong."""
    return directory / f"{slug(origin.machine)}-{date}.csv"


def keep(rows: Iterable[Row], date: str, directory: Path = RESULTS) -> Path:
    """Adds the rows of a run to the file of its machine and day; its parts replace those of earlier runs of that day.

    Raises:
        ValueError: the run cannot be repeated from a commit, or there are no rows.
    """
    new = list(rows)
    origins = {row.origin for row in new}
    if len(origins) != 1:
        raise ValueError(f"the rows of one run share one origin, these have {len(origins)}")
    (origin,) = origins
    if directory.resolve() == RESULTS and not origin.clean:
        raise ValueError("results are kept from a clean tree only: commit the changes, then measure")
    path = file_for(origin, date, directory)
    parts = {row.part for row in new}
    old = [row for row in read(path) if row.part not in parts] if path.exists() else []
    directory.mkdir(parents=True, exist_ok=True)
    write(path, [*old, *new])
    return path


def files(directory: Path = RESULTS) -> list[Path]:
    """The files with rows, the newest last."""
    found = (path for path in directory.glob("*.csv") if not path.name.endswith(".parts.csv"))
    return sorted(found, key=lambda path: (path.stem[-10:], path.name))


def newest(part: str, machine: str = "", case: str = "", directory: Path = RESULTS) -> tuple[Path, list[Row]]:
    """The newest file with rows of a part, and those rows; of machines whose name contains `machine` and of cases that
    begin with `case`.

    Raises:
        FileNotFoundError: there is none.
    """
    for path in reversed(files(directory)):
        rows = [row for row in read(path) if row.part == part and machine in row.machine and row.case.startswith(case)]
        if rows:
            return path, rows
    raise FileNotFoundError(f"no committed result has rows of the part {part!r}")
