"""The GPU report where there is no GPU: it says so; and its own code, run dry on the CPU."""

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_report, gpu_rows
from benchmarks._report import Report
from benchmarks.gpu_report import Budget, measured
from benchmarks.gpu_rows import Scale, Task, execute

ROOT = Path(__file__).resolve().parents[2]


def rows(directory, section=None):
    found = json.loads((directory / "report.json").read_text())["rows"]
    return [row for row in found if section in (None, row["section"])]


def test_without_a_gpu_it_runs_to_its_end_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_report.main(["--out", str(tmp_path / "a b")]) == 0
    assert "no CUDA device" in capsys.readouterr().out
    found = rows(tmp_path / "a b")
    assert {row["section"] for row in found} == set(gpu_report.SLICES)
    assert all(row["status"] == "skipped" and row["reason"] == "no CUDA device" for row in found)
    assert (tmp_path / "a b" / "report.md").exists()


@pytest.mark.slow
def test_dry_run_on_the_cpu(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu_report", "--dry-run", "cpu", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    failed = [row for row in rows(tmp_path) if row["status"] == "failed"]
    assert not failed
    for section in ("ceilings", "peers", "ours"):
        assert any(row["status"] == "ok" for row in rows(tmp_path, section)), section
    ours = [row for row in rows(tmp_path, "ours") if row["provider"] == "fast-torch"]
    assert {row["name"].split("-")[0] for row in ours} >= {"grn", "mlp_grn", "block", "convnextv2_atto", "fcmae_atto"}
    assert all(row["ms"] > 0 and row["max_relative_error"] < 1e-3 and row["roofline_share"] > 0 for row in ours)
    text = (tmp_path / "report.md").read_text() + (tmp_path / "report.json").read_text()
    assert str(ROOT) not in text, "no paths in a report"


def test_rows_that_do_not_fit_are_skipped_and_named():
    ran, log = [], []

    def task(name, needs):
        return Task(
            (f"{name} / p",), needs, lambda _: ran.append(name) or [{"name": name, "provider": "p", "status": "ok"}]
        )

    tasks = [task("done", 1), task("long", 1000), task("short", 1)]
    assert execute(tasks, {"done / p"}, time.time() + 100, "cpu", log.append) == 0
    assert ran == ["short"]
    assert log[0] == {"plan": ["done / p", "long / p", "short / p"]}
    skipped = log[1]["row"]
    assert skipped["name"] == "long" and skipped["status"] == "skipped" and "needs about 1000 s" in skipped["reason"]


def test_rows_may_be_chosen():
    asked = []
    task = Task(("model / ours", "model / theirs"), 0, lambda keys: asked.extend(keys) or [], lambda keys: None)
    (kept,) = gpu_rows.matching([task, Task(("op / theirs",), 0, asked.extend)], "ours$")
    execute([kept], set(), time.time() + 100, "cpu", lambda message: None)
    assert asked == ["model / ours"]


def test_a_task_that_raises_is_a_failed_row():
    log = []

    def broken(missing):
        raise RuntimeError("no luck\n\nat all\nmore")

    execute([Task(("a / p", "b / p"), 0, broken)], set(), time.time() + 100, "cpu", log.append)
    failed = [message["row"] for message in log if "row" in message]
    assert [row["name"] for row in failed] == ["a", "b"]
    assert all(row["status"] == "failed" and row["reason"] == "RuntimeError: no luck at all" for row in failed)


FAKE = """
    import argparse, json, os, time
    parser = argparse.ArgumentParser()
    for name in ("section", "device", "deadline", "log", "done"):
        parser.add_argument("--" + name)
    options = parser.parse_args()
    done = json.load(open(options.done))
    with open(options.log, "a", buffering=1) as log:
        def emit(**message): log.write(json.dumps(message) + "\\n")
        emit(plan=["one", "two", "three"])
        for name in ("one", "two", "three"):
            if name in done: continue
            emit(begin=[name])
            if name == "two": ACT
            emit(row={"name": name, "status": "ok"})
"""


@pytest.mark.parametrize(
    ("act", "status", "reason"),
    [("os._exit(9)", "failed", "ended with code 9"), ("time.sleep(60)", "skipped", "used up")],
)
def test_a_crash_or_a_hang_costs_one_task(tmp_path, act, status, reason):
    program = tmp_path / "fake.py"
    program.write_text(textwrap.dedent(FAKE).replace("ACT", act))
    report = Report(tmp_path / "out", {"commit": None})
    began = time.monotonic()
    measured(report, "ours", "cpu", 1.0, (sys.executable, str(program)))
    assert time.monotonic() - began < 40
    found = {row["name"]: row for row in rows(tmp_path / "out")}
    assert found["one"]["status"] == "ok"
    assert found["two"]["status"] == status and reason in found["two"]["reason"]
    crash = status == "failed"
    assert found["three"]["status"] == ("ok" if crash else "skipped"), "behind a crash it goes on, behind a hang not"


def test_a_process_that_never_starts_is_a_failed_row(tmp_path):
    report = Report(tmp_path, {"commit": None})
    measured(report, "peers", "cpu", 20.0, (sys.executable, "-c", "raise SystemExit('broken')"))
    (row,) = rows(tmp_path)
    assert row["status"] == "failed" and "broken" in row["reason"]


def test_the_budget_keeps_time_for_later_sections():
    now = [0.0]
    budget = Budget(480.0, clock=lambda: now[0])
    assert budget.slice("build") == gpu_report.SLICES["build"][0]
    now[0] = 300.0
    reserved = gpu_report.SLICES["ours"][1]
    assert budget.slice("peers") == 180.0 - reserved
    assert budget.slice("max-autotune") == 180.0
    now[0] = 1000.0
    assert budget.left() == budget.slice("ours") == 0.0


def test_the_plan_for_a_gpu_can_be_made_without_one():
    """Every row of the real run is known before anything runs, and no two share a name."""
    for name, section in gpu_rows.SECTIONS.items():
        keys = [key for task in section(Scale("cuda", dry=False)) for key in task.keys]
        assert keys and len(keys) == len(set(keys)), name


@pytest.mark.parametrize(
    ("codes", "status", "reason"),
    [
        ([[0], [0], [0]], "ok", "3 passed"),
        ([[0], [1], [0]], "failed", "3 passed, 1 failed"),
        ([[0], [None], [0]], "skipped", "3 passed until then"),
        ([[5], [5], [5]], "skipped", "no test is marked cuda"),
        ([[0], [gpu_report.DEVICE_LOST, 0], [0]], "failed", "4 passed, 1 failed"),
        ([[0], [-11, 0], [0]], "failed", "4 passed, 1 error"),
    ],
)
def test_device_tests_run_in_shards(tmp_path, monkeypatch, codes, status, reason):
    """And behind a crash they go on with the test after the one that crashed."""
    monkeypatch.setattr(gpu_report.os, "cpu_count", lambda: 4)
    commands, left = [], [list(of_shard) for of_shard in codes]

    def run(command, log, seconds):
        i = int(command[command.index("--shard") + 1].split("/")[0])
        commands.append(" ".join(command[-4:]))
        code = left[i].pop(0)
        failed = "tests/test_a.py::test_b FAILED\n" if code in (1, gpu_report.DEVICE_LOST) else ""
        log.write_text("" if code == 5 else "tests/test_a.py::test_a PASSED\n" + failed)
        return code

    monkeypatch.setattr(gpu_report, "run", run)
    report = Report(tmp_path, {}, False)
    assert gpu_report.tests(report, 1.0, dry=False) is (status != "failed")
    restart = ["--shard 1/3 --after 2"] * (len(codes[1]) - 1)
    assert sorted(commands) == sorted([f"--shard {i}/3 --after 0" for i in range(3)] + restart)
    (row,) = rows(tmp_path, "tests")
    assert row["status"] == status and reason in row["reason"]
