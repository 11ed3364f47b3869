"""`make gpu-report`: tests, sanitizer and all measurements on a machine with an NVIDIA GPU, within a wall budget.

Uses the interpreter it runs under, installs and downloads nothing. In this order: build (unless a CUDA library lies
there already), device tests, compute-sanitizer, Triton's compilations, ceilings, peers, ours, max-autotune.
OUT/report.json and OUT/report.md are complete after every row. Exit code 1 only if a test failed, the sanitizer found
something or a result was wrong.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from . import _machine
from ._machine import ROOT
from ._report import Report, key
from .gpu_rows import EXIT_BROKEN, SECTIONS, split
from .peers import installed

# seconds: the most that each section may take, and what is kept free for it while earlier ones run
SLICES = {
    "build": (100, 0),
    "tests": (120, 10),
    "sanitizer": (75, 10),
    "warm": (60, 0),
    "ceilings": (20, 15),
    "peers": (140, 90),
    "ours": (250, 100),
    "max-autotune": (600, 0),
}
TOOLS = ("memcheck", "racecheck", "initcheck")
RESTARTS = 4
DEVICE_LOST = 86  # pytest's exit code then, of tests/conftest.py
OUTCOME = re.compile(r"^.*::.* (PASSED|FAILED|ERROR|SKIPPED)\b", re.MULTILINE)
ROWS = (sys.executable, "-m", "benchmarks.gpu_rows")


class Budget:
    """The wall clock of the whole report."""

    def __init__(self, total: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._end = clock, clock() + total
        self._reserved: dict[str, float] = {section: reserved for section, (_, reserved) in SLICES.items()}

    def leave_out(self, sections: set[str]) -> None:
        """Keeps no time free for these."""
        self._reserved |= dict.fromkeys(sections, 0)

    def left(self) -> float:
        """Seconds left in all."""
        return max(0.0, self._end - self._clock())

    def slice(self, section: str) -> float:
        """Seconds that a section may take now, leaving what is reserved for those after it."""
        names = list(SLICES)
        reserved = sum(self._reserved[name] for name in names[names.index(section) + 1 :])
        return max(0.0, min(SLICES[section][0], self.left() - reserved))


def stop(process: subprocess.Popen[Any]) -> None:
    """Ends a process that we started and the children it has."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def run(command: list[str], log: Path, seconds: float, **environment: str) -> int | None:
    """Runs a command in the repository root, output to a log file. Its exit code; None if it took too long."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | environment,
        )
        try:
            return process.wait(timeout=max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            return None
        finally:
            stop(process)


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no output"


def build(report: Report, seconds: float) -> None:
    """A row on the CUDA library: there already, built now, or why not."""
    row: dict[str, Any] = {"section": "build", "name": "CUDA library"}
    if (ROOT / "convnextv2_fast" / "_C_cuda.so").exists():
        report.add(**row, status="ok", reason="prebuilt")
        return
    if shutil.which("nvcc") is None:
        report.add(**row, status="skipped", reason="no nvcc on PATH and no prebuilt convnextv2_fast/_C_cuda.so")
        return
    log, environment = report.directory / "build.log", {"CONVNEXTV2_FAST_CUDA": "1"}
    if torch.cuda.is_available() and "TORCH_CUDA_ARCH_LIST" not in os.environ:
        environment["TORCH_CUDA_ARCH_LIST"] = "{}.{}".format(*torch.cuda.get_device_capability())
    began = time.monotonic()
    code = run([sys.executable, "setup.py", "build_ext", "--inplace"], log, seconds, **environment)
    row["seconds"] = round(time.monotonic() - began, 1)
    if code == 0:
        report.add(**row, status="ok", reason="built")
    else:
        why = f"stopped after {seconds:.0f} s" if code is None else f"exit code {code}: {last_line(log)}"
        report.add(**row, status="failed", reason=f"{why}; see build.log")


def tests(report: Report, seconds: float, dry: bool) -> bool:
    """The tests marked cuda, several processes at a time, since most of theirs goes to compiling Triton kernels. False
    if one failed."""
    row: dict[str, Any] = {"section": "tests", "name": "pytest -m cuda"}
    if not installed("pytest"):
        report.add(**row, status="skipped", reason="pytest is not installed")
        return True
    what = ["tests/benchmarks", "--collect-only"] if dry else ["tests"]
    command = [sys.executable, "-m", "pytest", *what, "-m", "cuda", "-v", "-rN", "--tb=short", "-p", "no:cacheprovider"]
    shards = 1 if dry else min(12, max(1, (os.cpu_count() or 1) * 3 // 4))
    ends = time.monotonic() + seconds

    def part(i: int) -> tuple[int | None, str]:
        """A process that crashes, or loses the device, loses the test it was at; another one goes on behind it."""
        text = ""
        for attempt in range(RESTARTS + 1):
            log, after = report.directory / f"tests-{i}-{attempt}.log", len(OUTCOME.findall(text))
            code = run([*command, "--shard", f"{i}/{shards}", "--after", str(after)], log, ends - time.monotonic())
            text += log.read_text(errors="replace")
            if code in (0, 1, 5, None):
                break
            if code != DEVICE_LOST:
                text += f"\n::the test behind those of {log.name} ERROR\n"  # which takes its place in the count
        return code, text

    with ThreadPoolExecutor(shards) as pool:
        codes, texts = zip(*pool.map(part, range(shards)), strict=True)
    words = OUTCOME.findall("\n".join(texts))
    counts = {word: words.count(word) for word in ("PASSED", "FAILED", "ERROR", "SKIPPED")}
    said = ", ".join(f"{count} {word.lower()}" for word, count in counts.items() if count) or "none ran"
    good = all(code in (0, 5) or code is None for code in codes) and not counts["FAILED"] and not counts["ERROR"]
    if not good:
        report.add(**row, status="failed", reason=f"{said}; see tests*.log")
    elif set(codes) == {5}:
        report.add(**row, status="skipped", reason="no test is marked cuda")
    elif None in codes:
        report.add(**row, status="skipped", reason=f"stopped after {seconds:.0f} s: {said} until then; see tests*.log")
    else:
        report.add(**row, status="ok", reason=f"{said}; see tests*.log")
    return good


def sanitizer(report: Report, budget: Budget, device: str) -> bool:
    """compute-sanitizer over every native kernel. False if it found something."""
    clean, tool, seconds = True, shutil.which("compute-sanitizer"), budget.slice("sanitizer")

    def watched(check: str) -> tuple[int | None, Path]:
        log = report.directory / f"{check}.log"
        # cuBLAS writes 16-bit products by bulk copies, which initcheck does not see: torch's own kernels then "read
        # uninitialised memory" as well.
        precisions = ("float32",) if check == "initcheck" else ("float32", "bfloat16")
        target = [sys.executable, "-m", "benchmarks.sanitize", "--device", device, "--precisions", *precisions]
        command = [tool or "", "--tool", check, "--error-exitcode", "86", *target]
        return run(command, log, seconds, PYTORCH_NO_CUDA_MEMORY_CACHING="1", CUDA_MODULE_LOADING="LAZY"), log

    with ThreadPoolExecutor(len(TOOLS)) as pool:
        found = list(pool.map(watched, TOOLS)) if tool else []
    for check in TOOLS:
        row: dict[str, Any] = {"section": "sanitizer", "name": check}
        if tool is None:
            report.add(**row, status="skipped", reason="compute-sanitizer is not on PATH")
            continue
        code, log = found[TOOLS.index(check)]
        if code is None and "=========     at" not in log.read_text(errors="replace"):
            report.add(
                **row, status="skipped", reason=f"stopped after {seconds:.0f} s, nothing found until: {last_line(log)}"
            )
            continue
        clean = clean and code == 0
        report.add(**row, status="ok" if code == 0 else "failed", reason=f"exit code {code}: {last_line(log)}")
    return clean


def warm(report: Report, seconds: float, program: Sequence[str] = ROWS) -> None:
    """Compiles what Triton needs for the rows of `ours`, several processes at a time, so that none of them waits."""
    processes, ends = min(8, max(1, (os.cpu_count() or 1) // 2)), time.monotonic() + seconds

    def part(i: int) -> int | None:
        command = [*program, "--section", "ours", "--device", "cuda", "--deadline", str(time.time() + seconds)]
        log = report.directory / f"warm-{i}.log"
        return run([*command, "--warm", f"{i}/{processes}"], log, ends - time.monotonic())

    began = time.monotonic()
    with ThreadPoolExecutor(processes) as pool:
        codes = list(pool.map(part, range(processes)))
    row = {"section": "warm", "name": "Triton's kernels", "seconds": round(time.monotonic() - began, 1)}
    crashed = sum(code not in (0, None) for code in codes)
    if crashed:
        report.add(**row, status="skipped", reason=f"{crashed} of {processes} processes ended early; see warm*.log")
    else:
        report.add(**row, status="ok", reason="compiled" if None not in codes else "as far as time went")


def measured(report: Report, section: str, device: str, seconds: float, program: Sequence[str] = ROWS) -> None:
    """Runs a section of :mod:`benchmarks.gpu_rows` in processes of its own and takes over its rows as they come.

    A process that crashes loses the task it was at; another one goes on behind it."""
    ends = time.time() + seconds
    finished = set(report.done(section))
    planned: list[str] = []
    why = ""
    done_file = report.directory / f"{section}.done.json"
    for attempt in range(RESTARTS + 1):
        log, output = (report.directory / f"{section}-{attempt}.{kind}" for kind in ("jsonl", "log"))
        log.write_text("")
        done_file.write_text(json.dumps(sorted(finished)))
        options = ["--section", section, "--device", device, "--deadline", str(ends)]
        command = [*program, *options, "--log", str(log), "--done", str(done_file)]
        with output.open("wb") as sink:
            process = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True)
            begun, place = [], 0
            while True:
                ended = process.poll() is not None or time.time() > ends + 5
                text = log.read_text()
                lines = text[place:].split("\n")
                place = len(text) - len(lines.pop())  # an unfinished line waits for its end
                for message in map(json.loads, lines):
                    planned = message.get("plan", planned)
                    begun = message.get("begin", begun)
                    if "row" in message:
                        report.add(section=section, **message["row"])
                        finished.add(key(message["row"]))
                if ended:
                    break
                time.sleep(0.1)
            code = process.poll()
            stop(process)
        if code == 0:
            break
        lost = [name for name in begun if name not in finished]
        why = f"the slice of {seconds:.0f} s was used up" if code is None else f"the process ended with code {code}"
        for name in lost:
            report.add(section=section, **split(name), status="skipped" if code is None else "failed", reason=why)
        finished |= set(lost)
        if code is None or (not lost and code != EXIT_BROKEN):
            break
    for name in planned:
        if name not in finished:
            report.add(section=section, **split(name), status="skipped", reason=why)
    if why and not planned:
        report.add(section=section, name=section, status="failed", reason=f"{why}: {last_line(output)}")
    done_file.unlink()


def header(dry: bool, commit: str | None) -> dict[str, Any]:
    """What heads the report."""
    found = _machine.describe()
    if found["commit"] is None and commit:
        found |= {"commit": commit, "dirty": None}
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {"date": now, "dry_run": dry, **found}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make gpu-report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="directory of the report")
    parser.add_argument("--budget", type=float, default=480.0, help="seconds in all (default 480)")
    parser.add_argument("--resume", action="store_true", help="keep the finished rows of an earlier run")
    parser.add_argument(
        "--dry-run", choices=("cpu",), help="the same code on a CPU, tiny shapes: tests the report itself"
    )
    parser.add_argument("--commit", help="commit to name where there is no git")
    parser.add_argument("--rows", default="", help="regular expression found in `name / provider` of rows to measure")
    parser.add_argument("--only", nargs="+", choices=SLICES, default=list(SLICES), help="these sections alone")
    options = parser.parse_args(arguments)
    dry = options.dry_run is not None
    budget = Budget(options.budget)
    out = options.out.resolve()
    try:
        report = Report(out, header(dry, options.commit), options.resume)
    except ValueError as error:
        parser.error(str(error))
    if not dry and not torch.cuda.is_available():
        for section in SLICES:
            report.add(section=section, name=section, status="skipped", reason="no CUDA device")
        print("no CUDA device: nothing was measured")
        return 0
    device = "cpu" if dry else "cuda"
    good = True
    budget.leave_out(set(SLICES) - set(options.only))
    if not dry and "build" in options.only:
        build(report, budget.slice("build"))
    if "tests" in options.only:
        good = tests(report, budget.slice("tests"), dry) and good
    if "sanitizer" in options.only:
        good = sanitizer(report, budget, device) and good
    if not dry and "warm" in options.only:
        warm(report, budget.slice("warm"), [*ROWS, "--rows", options.rows])
    for section in SECTIONS:
        if section not in options.only or (dry and section == "max-autotune"):
            continue  # a dry run compiles nothing
        measured(report, section, device, budget.slice(section), [*ROWS, "--rows", options.rows])
    good = good and not any(row.get("wrong") for row in report.rows)
    count = {state: sum(row["status"] == state for row in report.rows) for state in ("ok", "skipped", "failed")}
    print(report.markdown())
    print(", ".join(f"{number} rows {state}" for state, number in count.items()) + f"; {budget.left():.0f} s left")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
