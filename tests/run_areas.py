"""Runs areas of the test suite in full, and keeps a record of what passed.

python -m tests.run_areas              every test
python -m tests.run_areas triton ops   these areas
python -m tests.run_areas --stale      the areas whose sources changed since they last passed
python -m tests.run_areas --record     writes what passed into tests/areas.tsv (with any of these)
python -m tests.run_areas --record --fewer    also where fewer tests passed than the table says
python -m tests.run_areas --table      the table of CONTRIBUTING
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.areas import AREAS, BY_NAME, ROOT, Area, digest

TABLE = ROOT / "tests" / "areas.tsv"
REPORT = ROOT / "build" / "tests.xml"
COMPLETE = (0, 1)  # pytest's exit codes where every test ran: all passed, or some failed
FEWEST = 0.9  # share of the tests of the last record that has to pass: a few depend on the machine's instruction set


@dataclass(frozen=True)
class Passed:
    """A row of the table. `tests`: how many passed."""

    digest: str
    seconds: int
    tests: int


@dataclass(frozen=True)
class Outcome:
    """What became of an area's tests."""

    seconds: float = 0.0
    passed: int = 0
    failed: int = 0

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.seconds + other.seconds, self.passed + other.passed, self.failed + other.failed)


def read() -> dict[str, Passed]:
    """What is committed of each area."""
    if not TABLE.exists():
        return {}
    rows = (line.split("\t") for line in TABLE.read_text().splitlines()[1:])
    return {name: Passed(digest, int(seconds), int(tests)) for name, digest, seconds, tests in rows}


def write(rows: dict[str, Passed]) -> None:
    """The table, in the order of the areas."""
    known = [(area.name, rows[area.name]) for area in AREAS if area.name in rows]
    lines = [f"{name}\t{row.digest}\t{row.seconds}\t{row.tests}" for name, row in known]
    TABLE.write_text("\n".join(["area\tpassed as\tseconds\ttests", *lines, ""]))


def stale() -> list[Area]:
    """Areas that have changed since they passed."""
    known = read()
    return [area for area in AREAS if area.name not in known or known[area.name].digest != digest(area)]


def outcomes(report: Path) -> dict[str, Outcome]:
    """Of each area that ran. A file that could not be imported, or is skipped as a whole, has a name and no class."""
    found: dict[str, Outcome] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        place = (case.get("classname") or case.get("name", "")).removesuffix(".py").replace(".", "/")
        area = next((a for a in AREAS for t in a.tests if f"{place}/".startswith(f"{t.removesuffix('.py')}/")), None)
        if area is None:
            raise ValueError(f"{place} belongs to no area of tests/areas.py")
        failed = any(case.find(what) is not None for what in ("failure", "error"))
        passed = not failed and case.find("skipped") is None
        one = Outcome(float(case.get("time", 0)), int(passed), int(failed))
        found[area.name] = found.get(area.name, Outcome()) + one
    return found


def record(digests: dict[str, str], found: dict[str, Outcome], fewer: bool) -> None:
    """Writes the areas that passed into the table. Not those where many tests were skipped, which prove nothing."""
    rows = read()
    for name, known in digests.items():
        got, before = found.get(name, Outcome()), rows.get(name)
        wanted = 0 if before is None else before.tests
        if got.failed:
            continue
        if got.passed == 0 or (got.passed < FEWEST * wanted and not fewer):
            print(
                f"{name} is not recorded: {got.passed} of its tests passed, "
                f"{wanted or 'none'} when it was recorded last. Is a tool missing here, such as a compiler? "
                "If there are fewer tests now: --record --fewer"
            )
            continue
        rows[name] = Passed(known, round(got.seconds), got.passed)
    write(rows)


def run(areas: Sequence[Area], extra: Sequence[str], recording: bool, fewer: bool = False) -> int:
    """Runs the areas' tests in one session; pytest's exit code."""
    recording = recording and not extra
    digests = {area.name: digest(area) for area in areas}
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.unlink(missing_ok=True)
    began = time.monotonic()
    paths = [test for area in areas for test in area.tests]
    # worksteal: a worker that has nothing left takes tests from another.
    options = ("-n", "logical", "--dist", "worksteal", "--durations", "15", f"--junitxml={REPORT}")
    command = [sys.executable, "-m", "pytest", *paths, *options, *extra]
    # PYTEST_ADDOPTS="-k ..." would have a part of an area pass for all of it.
    environment = {name: value for name, value in os.environ.items() if not (recording and name == "PYTEST_ADDOPTS")}
    code = subprocess.run(command, cwd=ROOT, check=False, env=environment).returncode
    print(f"{', '.join(digests)}: {time.monotonic() - began:.0f} s", flush=True)
    if recording and code in COMPLETE and REPORT.exists():
        record(digests, outcomes(REPORT), fewer)
    elif recording:
        print(f"nothing is recorded: pytest did not run to its end (exit code {code})")
    return code


def table() -> list[str]:
    """Markdown: an area, what it proves, its seconds."""
    known = read()
    lines = ["| area | what it proves | seconds |", "| --- | --- | --- |"]
    lines += [f"| `{a.name}` | {a.proves} | {known[a.name].seconds if a.name in known else '-'} |" for a in AREAS]
    return lines


def main() -> int:
    """pytest's exit code; 0 if there is nothing to run."""
    parser = argparse.ArgumentParser(prog="python -m tests.run_areas", description="Runs areas of the tests in full.")
    parser.add_argument("names", nargs="*", metavar="AREA", help=f"of {', '.join(BY_NAME)} (default: all)")
    parser.add_argument("--stale", action="store_true", help="those whose sources changed since they last passed")
    parser.add_argument("--record", action="store_true", help="write what passed into tests/areas.tsv")
    parser.add_argument("--fewer", action="store_true", help="record areas of which fewer tests passed than last time")
    parser.add_argument("--table", action="store_true", help="print the table of areas, run nothing")
    options, extra = parser.parse_known_args()
    unknown = [name for name in options.names if name not in BY_NAME]
    if unknown:
        parser.error(f"there is no area {', '.join(unknown)}: {', '.join(BY_NAME)}")
    if options.table:
        print("\n".join(table()))
        return 0
    areas = [BY_NAME[name] for name in options.names] or (stale() if options.stale else list(AREAS))
    if not areas:
        print("every area of the tests passed as it is")
        return 0
    try:
        return run(areas, extra, options.record, options.fewer)
    except KeyboardInterrupt:
        print("\ninterrupted: nothing is recorded", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
