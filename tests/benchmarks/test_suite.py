"""The pytest-benchmark suite and `make bench`, run small, as a user runs them."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.reports import machine, photos, program, tidy
from benchmarks.reports.naming import OURS
from benchmarks.suite.cases import Setting
from benchmarks.suite.measure import Outcome
from convnextv2_fast.bench.timing import Timing

ROOT = Path(__file__).resolve().parents[2]


def test_the_suite_reports_interleaved_rounds(tmp_path):
    out = tmp_path / "out.json"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "benchmarks/suite/test_ops.py",
        "--smoke",
        "-q",
        "-k",
        "layer_norm-2x and not cpu-fast-c",
    ]
    command += ["-p", "no:cacheprovider", f"--benchmark-json={out}"]
    # A worker of pytest-xdist hands this down, and pytest-benchmark then measures nothing.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=alone)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert {b["extra_info"]["provider"] for b in found["benchmarks"]} >= {"fast-torch", "eager"}
    for benchmark in found["benchmarks"]:
        info = benchmark["extra_info"]
        assert benchmark["stats"]["median"] > 0 and info["max_relative_error"] < 1e-4
        assert {"gb_per_s", "gflop_per_s", "roofline_share"} <= set(info)
    told = json.dumps(found["machine_info"])
    assert "torch" in found["machine_info"] and "node" not in found["machine_info"]
    assert os.uname().nodename not in told or len(os.uname().nodename) < 4
    assert str(ROOT) not in out.read_text()


def test_photos(capsys, monkeypatch, tmp_path):
    """`make bench`, on the smallest model and small photographs, without torch.compile."""
    pytest.importorskip("skimage")
    monkeypatch.setattr(program, "RESULTS", tmp_path / "results")
    origin = replace(machine.origin(), commit="a" * 40, dirty=False)
    monkeypatch.setattr(machine, "origin", lambda **_: origin)
    out = ["--out", str(tmp_path / "out"), "--save"]
    assert photos.main(["--size", "atto", "--resolution", "64", "--rounds", "1", "--no-compile", *out]) == 0
    shown = capsys.readouterr().out
    assert "Parity" in shown and "] parity of each backend" in shown and "--no-compile" in shown
    assert "speed-up over timm, eager" in shown or "the baseline is upstream's code" in shown
    assert shown.count("load ") == 2 and " %" in shown
    (path,) = (tmp_path / "results").glob("*.csv")
    rows = tidy.read(path)
    assert {(row.part, row.dtype) for row in rows} == {("photos", "float32")}
    found = {(row.provider, row.mode) for row in rows}
    whose = {provider for provider, _ in found}
    assert OURS in whose and whose & {"timm", "upstream"}
    assert "compile" not in {mode for _, mode in found}, "what did not run is no row"
    assert {(row.case, row.batch) for row in rows} == {
        ("convnextv2_atto-64px-forward", 4),
        ("convnextv2_atto-64px-forward", 1),
        ("convnextv2_atto-64px-forward_backward", 4),
    }
    assert all(row.ms > 0 and row.rel_error < 1e-3 for row in rows)
    assert len(list((tmp_path / "results").glob("*-photos.png"))) == bool(importlib.util.find_spec("matplotlib"))


@pytest.mark.parametrize(
    "option, value, says",
    [
        ("--size", "bogus", "invalid choice: 'bogus' (choose from"),
        ("--resolution", "10", "'10' is no whole number from 32"),
        ("--rounds", "0", "'0' is no whole number from 1"),
        ("--rounds", "many", "'many' is no whole number from 1"),
        ("--seconds", "nan", "'nan' is no number of seconds"),
        ("--seconds", "-1", "'-1' is no number of seconds"),
    ],
)
def test_photos_refuses_what_it_cannot_run(option, value, says, capsys):
    with pytest.raises(SystemExit) as ended:
        photos.main([option, value])
    shown = capsys.readouterr().err
    assert ended.value.code == 2 and f"argument {option}: {says}" in shown


def test_photos_interrupted(capsys, monkeypatch, tmp_path):
    """Ctrl-C ends it in a sentence."""
    pytest.importorskip("skimage")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(photos, "parity", interrupt)
    assert photos.main(["--size", "atto", "--resolution", "64", "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().out.endswith(f"stands above and in {tmp_path / 'out'}\n")


def test_interrupted_while_torch_is_imported():
    """`make bench` says what it does before the import, and Ctrl-C then ends it in a sentence too."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a job in the background ignores
    )
    assert process.stdout is not None and process.stdout.readline().startswith("importing torch")
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in out and "Traceback" not in err


def test_photos_without_timm(capsys, monkeypatch, tmp_path):
    """A timm that cannot be imported leaves upstream's code as the baseline, and a sentence."""
    pytest.importorskip("skimage")

    monkeypatch.setitem(sys.modules, "timm", None)
    small = ["--size", "atto", "--resolution", "64", "--rounds", "1", "--no-compile"]
    assert photos.main([*small, "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert (
        "no timm here (ModuleNotFoundError: import of timm halted" in shown
        and "the baseline is upstream's code" in shown
    )
    assert shown.count("speed-up over upstream's code, eager") == 3 and "timm, eager" not in shown


def test_a_noisy_row_says_so(capsys):
    images = torch.zeros(4, 3, 32, 32)
    case = photos.PhotoCase(images, 4, Setting("cpu", "float32"), False, "atto")
    quiet, noisy = (Timing([base, 1.0, top]) for base, top in ((0.99, 1.01), (0.5, 1.5)))
    outcomes = {
        "fast-cpu": Outcome("ok", timing=noisy, info={"images_per_s": 4.0}),
        "timm": Outcome("ok", timing=quiet, info={"images_per_s": 4.0}),
        "timm-compile": Outcome("skipped", "no compiler"),
    }
    photos.speed_table(case, outcomes, "timm")
    shown = capsys.readouterr().out
    assert shown.count("NOISY") == 1 and "timm, compile: skipped: no compiler" in shown and "1.00x" in shown


def test_photographs_are_photographs():
    pytest.importorskip("skimage")
    images = photos.photographs(64)
    assert images.shape == (4, 3, 64, 64) and images.isfinite().all()
    assert images.std() > 0.5 and not (images[0] == images[1]).all()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_makefile_names_its_targets():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("test", "bench", "benchmarks-smoke", "gpu-account", "venv", "build", "lint", "format", "clean"):
        assert target in shown


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("target", ["venv", "wheel-index", "check-abi", "gpu-account"])
def test_the_makefile_refuses_a_python_that_is_not_there(target, tmp_path):
    command = ["make", target, f"VENV={tmp_path / 'an environment'}", "PYTHON=no-such-python"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and "no Python >= 3.10 found in PYTHON=no-such-python" in done.stderr
    assert "not found\n" not in done.stderr
