"""`compare`: what it calls faster, a comparison with HEAD, and a case that cannot be measured."""

import json
import subprocess

import pytest

from benchmarks.compare import __main__ as compare
from benchmarks.compare import revisions
from benchmarks.compare.__main__ import Case, Row, Worker, verdict
from benchmarks.reports.machine import ROOT
from convnextv2_fast.bench.timing import Timing

SMALL = ["--side", "7", "--batch", "1", "--threads", "1", "--device", "cpu", "--width", "8"]
QUIET, NOISY = [1.0, 1.01, 0.99, 1.0, 1.02], [1.0, 3.0, 0.5, 2.0, 1.2]


def worktrees():
    return subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("base", "current", "word"),
    [
        (QUIET, [2 * each for each in QUIET], "slower"),
        ([2 * each for each in QUIET], QUIET, "faster"),
        (QUIET, QUIET[::-1], "within noise"),
        (QUIET, [1.015 * each for each in QUIET], "within noise"),
        (QUIET, NOISY, "within noise"),
        (QUIET[:4], [2.0] * 4, "within noise"),  # too few rounds to tell
    ],
)
def test_the_verdict(base, current, word):
    assert verdict(Timing(base), Timing(current)) == word


def test_a_table_of_two_revisions(capsys):
    case = Case("grn", True, 4, 14, 384, "float32", "cpu")
    rows = [Row(case, Timing(QUIET), Timing([2 * each for each in QUIET])), Row(case, error="base: no such op")]
    compare.report(rows)
    shown = capsys.readouterr().out
    for expected in ("grn", "forward and backward", "4x14x14x384", "1000.000", "2000.000", "2.000", "slower"):
        assert expected in shown
    assert "grn, forward and backward, 4x14x14x384: not measured: base: no such op" in shown


@pytest.mark.skipif(not worktrees(), reason="no git repository")
def test_head_beside_the_working_tree(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(revisions, "NATIVE", ("LICENSE",))  # whatever is being changed: nothing is compiled
    before, file = worktrees(), tmp_path / "compared.json"
    assert compare.main(["--base", "HEAD", "--op", "layer_norm", *SMALL, "--rounds", "2", "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "base: HEAD (" in shown and shown.count("layer_norm") == 2 and "1x7x7x8" in shown
    found = json.loads(file.read_text())
    assert [row["backward"] for row in found["rows"]] == [False, True] and len(found["base"]) == 40
    for row in found["rows"]:
        assert len(row["base_s"]) == len(row["current_s"]) == 2 and min(row["base_s"] + row["current_s"]) > 0
        assert row["ratio"] > 0 and row["verdict"] == "within noise"
    assert worktrees() == before, "the base's folder is gone"


def test_every_case_can_be_asked_for_and_one_that_fails_is_a_row():
    options = compare.parser().parse_args([*SMALL, "--rounds", "1"])
    worker = Worker(ROOT)
    try:
        found = [compare.measure(case, worker, worker, 1) for case in compare.cases(options)]
        assert len(found) == 2 * len(compare.OPS) and [row.error for row in found if row.error] == []
        missing = Case("no_such_op", False, 1, 7, 8, "float32", "cpu")
        assert compare.measure(missing, worker, worker, 1).error.startswith("base: KeyError")
        worker.process.kill()
        worker.process.wait()
        assert "its process ended with code" in compare.measure(missing, worker, worker, 1).error
    finally:
        worker.close()


def test_a_base_that_is_not_there(capsys):
    assert compare.main(["--base", "no-such-revision"]) == 2
    assert "error: git rev-parse --verify no-such-revision" in capsys.readouterr().err
