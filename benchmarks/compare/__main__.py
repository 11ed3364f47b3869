"""Did a change help? Times every op and the blocks of a base revision and of the working tree, side by side.

    python -m benchmarks compare --base main --op grn --op block

The base is checked out into a temporary folder. Its native library is compiled there if its C++ differs, and kept in
build/compare; else it takes this tree's. Base and current each have a process of their own and are asked in turn, round
by round, so that a slow minute of the machine falls on both. A row is "faster" or "slower" if there are 5 rounds or
more, in 80 % of them the same one was ahead, the middle 60 % of the rounds of one lie wholly beyond those of the other,
and the medians differ by more than 2 %; everything else is "within noise".
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from convnextv2_fast import testing
from convnextv2_fast.bench import timing
from convnextv2_fast.bench.tables import print_table
from convnextv2_fast.bench.timing import Timing, quantile

from ..reports import machine, program
from ..reports.machine import ROOT
from .revisions import Worker, checked_out, git

OPS = tuple(dict.fromkeys((*testing.ALL_OPS, "block", "sparse-block")))
WIDTHS = (96, 384)  # of tiny's first and third stage
ROUND_SECONDS = 0.02
# Below these, two revisions are alike: rounds, the relative difference of the medians, the share of rounds in which the
# same one was ahead.
ENOUGH, MARGIN, MOSTLY = 5, 0.02, 0.8


@dataclass(frozen=True)
class Case:
    """A call: `batch` planes of `side` x `side` sites; `backward`: forward with all gradients."""

    op: str
    backward: bool
    batch: int
    side: int
    channels: int
    dtype: str
    device: str
    threads: int | None = None

    @property
    def direction(self) -> str:
        return "forward and backward" if self.backward else "forward"

    @property
    def shape(self) -> str:
        return f"{self.batch}x{self.side}x{self.side}x{self.channels}"


@dataclass
class Row:
    """What was measured of a case. `error`: why there are no times."""

    case: Case
    base: Timing = field(default_factory=Timing)
    current: Timing = field(default_factory=Timing)
    error: str = ""

    @property
    def ratio(self) -> float:
        """The current median over the base's."""
        return self.current.median / self.base.median

    @property
    def spread(self) -> float:
        """The larger of the two, relative to its median."""
        return max(self.base.spread, self.current.spread)

    @property
    def verdict(self) -> str:
        return verdict(self.base, self.current)


def verdict(base: Timing, current: Timing) -> str:
    """ "faster", "slower" or "within noise": what became of the current revision."""
    pairs = list(zip(base.seconds, current.seconds, strict=True))
    for word, one, other in (("faster", current, base), ("slower", base, current)):
        ahead = sum((now < before) == (word == "faster") for before, now in pairs)
        apart = quantile(one.seconds, 0.8) < quantile(other.seconds, 0.2)
        if len(pairs) >= ENOUGH and ahead >= MOSTLY * len(pairs) and apart:
            return word if abs(current.median / base.median - 1) > MARGIN else "within noise"
    return "within noise"


def measure(case: Case, base: Worker, current: Worker, rounds: int) -> Row:
    """Both revisions in turn; each round begins with the other one."""
    row = Row(case)
    timings = {"base": (base, row.base), "current": (current, row.current)}
    for name, (worker, found) in timings.items():
        try:
            once = worker.ask(prepare=asdict(case))
            found.iterations = max(1, math.ceil(ROUND_SECONDS / max(once, 1e-6)))
        except ValueError as error:
            row.error = f"{name}: {error}"
            return row
    calls = row.base.iterations = row.current.iterations = min(row.base.iterations, row.current.iterations)
    for number in range(rounds):
        for name in timing.rotated(list(timings), number):
            worker, found = timings[name]
            try:
                found.seconds.append(worker.ask(turn=calls))
            except ValueError as error:
                row.error = f"{name}: {error}"
                return row
    return row


def cases(options: argparse.Namespace) -> list[Case]:
    """Every op and direction at every width; a plane is as large as a layer of tiny's of about this width has it."""
    found = []
    device = options.device
    dtype = options.dtype or ("bfloat16" if device == "cuda" else "float32")
    batch = options.batch or (64 if device == "cuda" else 4)
    for op in dict.fromkeys(options.op or OPS):
        for c in options.width or WIDTHS:
            side = options.side or next((side for side, wide in ((56, 96), (28, 192), (14, 384)) if c <= wide), 7)
            found += [Case(op, backward, batch, side, c, dtype, device, options.threads) for backward in (False, True)]
    return found


def report(rows: Sequence[Row]) -> None:
    """The table, and below it what could not be measured."""
    head = ["op", "direction", "shape", "base ms", "current ms", "current / base", "spread", ""]
    lines = []
    for row in rows:
        if not row.error:
            times = (f"{1e3 * each.median:.3f}" for each in (row.base, row.current))
            cells = [row.case.op, row.case.direction, row.case.shape, *times]
            lines.append([*cells, f"{row.ratio:.3f}", f"{row.spread:.0%}", row.verdict])
    if lines:
        print_table(head, lines)
    for row in rows:
        if row.error:
            print(f"{row.case.op}, {row.case.direction}, {row.case.shape}: not measured: {row.error}")


def as_json(rows: Sequence[Row], commit: str) -> dict[str, Any]:
    """Everything measured, with every round's seconds."""
    found = []
    for row in rows:
        each = {**asdict(row.case), "base_s": row.base.seconds, "current_s": row.current.seconds, "error": row.error}
        found.append(each if row.error else {**each, "ratio": row.ratio, "spread": row.spread, "verdict": row.verdict})
    return {"base": commit, "machine": machine.describe(), "rows": found}


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, whole = made.add_argument, program.whole
    add("--base", default="main", metavar="REVISION", help="a commit, branch or tag (default: main)")
    add("--op", action="append", choices=OPS, help="repeatable (default: all)")
    add("--width", action="append", type=whole(1), metavar="C", help=f"channels; repeatable (default: {WIDTHS})")
    add("--side", type=whole(1), help="of the planes; for sparse ops a multiple of 7 (default: by width, as in tiny)")
    add("--batch", type=whole(1), help="planes (default: 4 on a CPU, 64 on a GPU)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="default: float32, on a GPU bfloat16")
    add("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    add("--threads", type=whole(1), help="of each process on the CPU (default: torch's)")
    add("--rounds", type=whole(1), default=15, help="turns of each revision (default: 15)")
    add("--json", type=Path, metavar="FILE", help="write everything measured")
    return made


def main(arguments: list[str] | None = None) -> int:
    """0; 1 if a case could not be measured; 130 after an interrupt, with what was measured until then."""
    options = parser().parse_args(arguments)
    rows: list[Row] = []
    commit, interrupted = "", False
    try:
        commit = git("rev-parse", "--verify", f"{options.base}^{{commit}}")
        print(f"base: {options.base} ({commit[:12]}); current: the working tree", flush=True)
        with checked_out(commit) as tree, contextlib.ExitStack() as stack:
            workers = [Worker(place) for place in (tree, ROOT)]
            for worker in workers:
                stack.callback(worker.close)
            for case in cases(options):
                rows.append(measure(case, *workers, options.rounds))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        interrupted = True
    report(rows)
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(rows, commit), indent=1) + "\n", encoding="utf-8")
    if interrupted:
        print("interrupted; this is what was measured until then", file=sys.stderr)
        return 130
    return int(any(row.error for row in rows))


if __name__ == "__main__":
    sys.exit(main())
