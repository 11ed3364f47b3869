"""The areas of the test suite: which tests, what they prove, of which sources; and which have to run again.

    python -m tests.areas              every test
    python -m tests.areas triton ops   these areas
    python -m tests.areas --stale      the areas whose sources changed since they last passed
    python -m tests.areas --record     writes what passed into tests/areas.tsv (with any of these)
    python -m tests.areas --table      the table of CONTRIBUTING

An area's digest is made of its tests, of what they import, and of the sources that it judges; a committed digest says:
passed as it is.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import compile_cache, imports

ROOT = compile_cache.ROOT
TABLE = ROOT / "tests" / "areas.tsv"
REPORT = ROOT / "build" / "tests.xml"
PACKAGE = "src/convnextv2_fast"
KERNELS = (f"{PACKAGE}/ops", f"{PACKAGE}/dispatch.py", f"{PACKAGE}/layouts.py", f"{PACKAGE}/library.py")
ALWAYS = ("tests/conftest.py", "requirements/torch.txt", "requirements/test.txt")


@dataclass(frozen=True)
class Area:
    """Tests that stand or fall with the same sources: `sources`, beside the tests and the helpers that they import."""

    name: str
    proves: str
    tests: tuple[str, ...]
    sources: tuple[str, ...]


AREAS = (
    Area(
        "ops",
        "every op and layout against float64: shapes, dtypes, gradients, errors; dispatch; the public API",
        (
            "tests/ops",
            "tests/test_cuda.py",
            "tests/test_dispatch.py",
            "tests/test_layouts.py",
            "tests/test_preferences.py",
            "tests/test_public_api.py",
            "tests/test_areas.py",
        ),
        (
            *KERNELS,
            f"{PACKAGE}/__init__.py",
            f"{PACKAGE}/models",
            f"{PACKAGE}/testing.py",
            "csrc/cpu",
            "csrc/include",
            "csrc/torch",
        ),
    ),
    Area(
        "native",
        "the CPU kernels for every instruction set, emulated and under sanitizers",
        ("tests/native",),
        (*KERNELS, "csrc/cpu", "csrc/include", "csrc/torch", "cmake"),
    ),
    Area(
        "emulation",
        "the CUDA kernels, emulated on the CPU, in any order of threads, under sanitizers",
        ("tests/cuda_emulation",),
        (*KERNELS, "csrc/cuda", "csrc/include", "csrc/torch"),
    ),
    Area(
        "machine-code",
        "what the compilers make of the CUDA kernels: registers, instructions, bytes, launches",
        ("tests/cuda_code", "tests/static_figures"),
        (*KERNELS, f"{PACKAGE}/models", "csrc/cuda", "csrc/include", "csrc/torch", "cmake"),
    ),
    Area(
        "triton",
        "the Triton kernels, interpreted on the CPU, and compiled for six families of GPUs",
        ("tests/triton",),
        KERNELS,
    ),
    Area(
        "fake-device",
        "whole steps never read from the device",
        ("tests/fake_device",),
        (*KERNELS, f"{PACKAGE}/models", "csrc/torch"),
    ),
    Area(
        "models",
        "the models against timm, transformers, and vectors of the original",
        ("tests/models", "tests/golden"),
        (*KERNELS, f"{PACKAGE}/models", f"{PACKAGE}/checkpoints", f"{PACKAGE}/reference.py"),
    ),
    Area(
        "adapters",
        "`accelerate`, alone and with compile, export, ONNX, DDP and FSDP; serving",
        ("tests/adapters", "tests/ecosystem", "tests/examples"),
        (*KERNELS, f"{PACKAGE}/models", f"{PACKAGE}/adapters", "examples"),
    ),
    Area(
        "checkpoints",
        "every format of checkpoint, in and out",
        ("tests/checkpoints",),
        (f"{PACKAGE}/checkpoints", f"{PACKAGE}/models"),
    ),
    Area("command-line", "`env`, `check`, `bench`, `explain`", ("tests/cli",), (f"{PACKAGE}/cli", *KERNELS)),
    Area(
        "train",
        "pre-training and fine-tuning: numbers, resume, kills, several processes",
        ("tests/train",),
        (f"{PACKAGE}/train", f"{PACKAGE}/cli", f"{PACKAGE}/models", f"{PACKAGE}/checkpoints"),
    ),
    Area(
        "reliability",
        "nothing grows over thousands of calls; forks; hostile files; random calls",
        ("tests/reliability",),
        (*KERNELS, f"{PACKAGE}/models", f"{PACKAGE}/checkpoints", "csrc/torch"),
    ),
    Area(
        "packaging",
        "installations, wheels and what is in them",
        ("tests/packaging",),
        (
            "tools",
            "cmake",
            "CMakeLists.txt",
            "setup.py",
            "pyproject.toml",
            "MANIFEST.in",
            "Makefile",
            f"{PACKAGE}/library.py",
            f"{PACKAGE}/_version.py",
        ),
    ),
    Area(
        "docs",
        "the pages' links, commands and Python blocks",
        ("tests/docs",),
        (
            "docs",
            "README.md",
            "CONTRIBUTING.md",
            "mkdocs.yml",
            "tools/docs",
            f"{PACKAGE}/cli",
            f"{PACKAGE}/environment.py",
            "examples",
            "benchmarks/results",
        ),
    ),
    Area(
        "benchmarks",
        "the programs that measure, their tables, and the account of a GPU",
        ("tests/benchmarks",),
        ("benchmarks", f"{PACKAGE}/cli", f"{PACKAGE}/testing.py"),
    ),
)
BY_NAME = {area.name: area for area in AREAS}


def files(places: Iterable[str]) -> list[Path]:
    """The tracked files in these folders, and these files; results of builds do not count."""
    listed = subprocess.run(["git", "ls-files", "-z", *places], cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file())


def digest(area: Area) -> str:
    """Of everything that the area's result depends on in this tree."""
    named = files((*area.tests, *area.sources, *ALWAYS))
    return compile_cache.digest({*named, *imports.followed(files(area.tests))})


def read() -> dict[str, tuple[str, int]]:
    """The committed digest and seconds of each area."""
    if not TABLE.exists():
        return {}
    rows = (line.split("\t") for line in TABLE.read_text().splitlines()[1:])
    return {name: (known, int(seconds)) for name, known, seconds in rows}


def stale() -> list[Area]:
    """Areas that have changed since they passed."""
    known = read()
    return [area for area in AREAS if known.get(area.name, ("", 0))[0] != digest(area)]


def outcomes(report: Path) -> dict[str, tuple[float, bool]]:
    """For each area that ran: the seconds of its tests, and whether all passed."""
    found: dict[str, tuple[float, bool]] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        place = f"{case.get('classname', '').replace('.', '/')}"
        area = next((a for a in AREAS for t in a.tests if f"{place}/".startswith(f"{t.removesuffix('.py')}/")), None)
        if area is None:
            raise ValueError(f"{place} belongs to no area of tests/areas.py")
        seconds, passed = found.get(area.name, (0.0, True))
        failed = any(case.find(what) is not None for what in ("failure", "error"))
        found[area.name] = (seconds + float(case.get("time", 0)), passed and not failed)
    return found


def run(areas: Sequence[Area], extra: Sequence[str], record: bool) -> int:
    """Runs the areas' tests in one session; pytest's exit code."""
    digests = {area.name: digest(area) for area in areas}
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.unlink(missing_ok=True)
    began = time.monotonic()
    paths = [test for area in areas for test in area.tests]
    # worksteal: a worker that has nothing left takes tests from another.
    options = ("-n", "logical", "--dist", "worksteal", "--durations", "15", f"--junitxml={REPORT}")
    code = subprocess.run([sys.executable, "-m", "pytest", *paths, *options, *extra], cwd=ROOT, check=False).returncode
    print(f"{', '.join(digests)}: {time.monotonic() - began:.0f} s", flush=True)
    if record and not extra and REPORT.exists():
        rows = read()
        for name, (seconds, passed) in outcomes(REPORT).items():
            if passed and name in digests:
                rows[name] = (digests[name], round(seconds))
        lines = [f"{a.name}\t{rows[a.name][0]}\t{rows[a.name][1]}" for a in AREAS if a.name in rows]
        TABLE.write_text("\n".join(["area\tpassed as\tseconds", *lines, ""]))
    return code


def table() -> list[str]:
    """Markdown: an area, what it proves, its seconds."""
    known = read()
    lines = ["| area | what it proves | seconds |", "| --- | --- | --- |"]
    lines += [f"| `{a.name}` | {a.proves} | {known[a.name][1] if a.name in known else '-'} |" for a in AREAS]
    return lines


def main() -> int:
    """pytest's exit code; 0 if there is nothing to run."""
    parser = argparse.ArgumentParser(prog="python -m tests.areas", description="Runs areas of the test suite in full.")
    parser.add_argument("names", nargs="*", metavar="AREA", help=f"of {', '.join(BY_NAME)} (default: all)")
    parser.add_argument("--stale", action="store_true", help="those whose sources changed since they last passed")
    parser.add_argument("--record", action="store_true", help="write what passed into tests/areas.tsv")
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
    return run(areas, extra, options.record)


if __name__ == "__main__":
    raise SystemExit(main())
