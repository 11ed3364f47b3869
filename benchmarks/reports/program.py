"""What the CPU report programs share: options, rows that are on disk as they come, pages and plots, and `--save`.

A program asks for its options, begins a `Run` before it measures anything, adds rows, and finishes: the rows are read
back from the CSV, and page and plots are made of them. `--save` then keeps the rows in `benchmarks/results`.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from convnextv2_fast.bench.settings import one_line
from convnextv2_fast.bench.timing import CpuWatch, Timing, interleaved

from . import machine, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = tidy.RESULTS
PACKAGES = ("timm", "transformers", "onnxruntime", "openvino")  # providers whose version belongs into the note
TOLERANCE = 1e-4  # of float32 results that must agree, relative to the largest element
Rows = Sequence[tidy.Row]
Calls = Mapping[str, Callable[[int], Tensor]]
Page = Callable[[Rows], str]


@dataclass(frozen=True)
class Plot:
    """What draws the rows of some parts. `name` ends the file's name; `figure` gives None if nothing can be drawn."""

    name: str
    parts: tuple[str, ...]
    figure: Callable[[Rows], Figure | None]

    def rows(self, rows: Rows) -> Rows:
        """Those that it draws."""
        return [row for row in rows if row.part in self.parts]

    def path(self, csv: Path) -> Path:
        """Where the picture of a CSV lies: beside it."""
        return csv.with_name(f"{csv.stem}-{self.name}.png")

    def draw(self, csv: Path, rows: Rows) -> list[Path]:
        """Draws rows of this CSV; the picture remembers which. Returns the files written: none without matplotlib."""
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            print("no plot: matplotlib is not installed")
            return []
        drawn = self.rows(rows)
        figure = self.figure(drawn) if drawn else None
        if figure is None:
            return []
        figure.savefig(self.path(csv), dpi=130, metadata={"Source": _digest(drawn)})
        return [self.path(csv)]

    def current(self, csv: Path, rows: Rows) -> bool:
        """Whether the picture was made of these rows."""
        path = self.path(csv)
        return path.exists() and _digest(self.rows(rows)).encode() in path.read_bytes()


def _digest(rows: Rows) -> str:
    return hashlib.sha256("".join(tidy.line(astuple(row)) for row in rows).encode()).hexdigest()


@dataclass(frozen=True)
class Run:
    """One run of a program. `path` is its CSV."""

    origin: tidy.Origin
    date: str
    path: Path
    save: bool

    def add(self, part: str, case: str, provider: str, **rest: Any) -> tidy.Row:
        """Adds a row to the file at once: a run cut short leaves what it had."""
        row = tidy.Row.of(self.origin, part, case, provider, **rest)
        tidy.append(self.path, row)
        return row

    def record(
        self,
        part: str,
        name: str,
        timing: Timing | Exception,
        *,
        peer: str = "",
        figures: Mapping[str, object] | None = None,
        counted: str = "rounds",
        **columns: Any,
    ) -> None:
        """Adds the row of a timing, and prints it as `name`; of a call that failed it prints why.

        Args:
            peer: whose version belongs into the note.
            figures: further parts of the note.
            counted: what there is a time of: "rounds", or "turns" of a process each.
            columns: of the row, `case` and `provider` among them.
        """
        if isinstance(timing, Exception):
            print(f"  {columns['case']} {name}: failed: {one_line(timing)}", flush=True)
            return
        row = self.add(part, **columns, **timed(timing, peer, counted, **(figures or {})))
        print(f"  {row.case} {name}: {row.ms:.4g} ms", flush=True)

    def race(self, part: str, calls: Calls, columns: Callable[[str], dict[str, Any]], **limits: Any) -> None:
        """Times calls on the CPU, interleaved, and records each. `columns` gives what :meth:`record` takes of a call,
        by its name; `limits` go to :func:`convnextv2_fast.bench.timing.interleaved`."""
        for name, timing in interleaved(calls, watch=CpuWatch(), **limits).items():
            self.record(part, name, timing, **columns(name))

    def finish(self, page: Page, *plots: Plot) -> None:
        """Writes the page and the plots beside the CSV; with --save, keeps rows and plots."""
        rows = tidy.read(self.path)
        if not rows:
            print("nothing was measured")
            return
        tidy.write_atomically(self.path.with_suffix(".md"), page(rows))
        written = [self.path, self.path.with_suffix(".md")]
        for plot in plots:
            written += plot.draw(self.path, rows)
        if self.save:
            kept = tidy.keep(rows, self.date, RESULTS)
            written.append(kept)
            for plot in plots:
                written += plot.draw(kept, tidy.read(kept))
        print("wrote " + ", ".join(os.path.relpath(path) for path in written))


def agreed(calls: Calls) -> Calls:
    """The same, once every call has given the first one's result.

    Raises:
        AssertionError: one has not.
    """
    want = next(iter(calls.values()))(0).detach()
    for name, call in calls.items():
        error = (call(0).detach() - want).abs().max() / want.abs().max()
        assert error <= TOLERANCE, f"{name}: differs by {error:.1e}"
    return calls


def options(name: str, description: str | None, quick: str = "") -> argparse.ArgumentParser:
    """A parser with the options of all programs; `quick` says what --quick does, where there is such an option."""
    parser = argparse.ArgumentParser(
        f"make {name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("build") / name, help=f"directory (default build/{name})")
    parser.add_argument(
        "--save", action="store_true", help="keep the rows in benchmarks/results; needs a tree without changes"
    )
    if quick:
        parser.add_argument("--quick", action="store_true", help=quick)
    return parser


def whole(least: int) -> Callable[[str], int]:
    """argparse type: a whole number that is not below this."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least}")
        return int(text)

    return parse


def seconds(text: str) -> float:
    """argparse type: a time."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return found


def begin(parser: argparse.ArgumentParser, args: argparse.Namespace, shortened: str = "", gpu_named: str = "") -> Run:
    """The run, with an empty CSV. Ends the program where --save could not keep the rows, before anything is measured.

    Args:
        shortened: the options given that make this run smaller than a kept one may be; "" if there are none.
        gpu_named: the GPU that is measured; without it, the CPU is.
    """
    origin, date = machine.origin(gpu_named=gpu_named), str(datetime.date.today())
    if args.save and shortened:
        parser.error(f"--save keeps whole runs only: leave {shortened} out")
    if args.save and not origin.clean:
        parser.error("--save needs a clean tree, so that the run can be repeated: commit the changes, then measure")
    path = tidy.file_for(origin, date, args.out)
    args.out.mkdir(parents=True, exist_ok=True)
    tidy.write(path, [])
    return Run(origin, date, path, args.save)


def timed(timing: Timing, provider: str = "", counted: str = "rounds", **figures: object) -> dict[str, Any]:
    """A row's columns of time; the note has the number of rounds (or what else is `counted`), the fastest one, the
    version of a peer and `figures`."""
    version = {provider: machine.version(provider)} if provider in PACKAGES else {}
    best = f"{1e3 * min(timing.seconds):.6g}"
    note = tidy.noted(**{counted: len(timing.seconds)}, best_ms=best, **figures, **version)
    return {**timing.percentiles(), "note": note}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a Markdown table."""
    names = list(head)
    lines = [names, ["---"] * len(names), *(list(row) for row in rows)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def told(rows: Rows) -> str:
    """Machine, torch and commit of rows of one run, as a sentence."""
    (origin,) = {row.origin for row in rows}
    changes = " with uncommitted changes" if origin.dirty else ""
    return f"{origin.machine}; torch {origin.torch}; commit {origin.commit[:12] or 'unknown'}{changes}."
