"""The CPU report: its arithmetic, its pages, and its measurements at a size where they take a second."""

import json
import mmap

import pytest

from benchmarks import cpu_pages, cpu_report
from benchmarks.cases import Setting
from benchmarks.module_cases import ModelCase

OURS = cpu_report.OURS


def row(provider, ms, case="atto-b2", precision="float32"):
    measured = {"ms": ms, "best_ms": ms, "ms_per_image": ms / 2, "roofline_share": 0.5}
    return {"case": case, "model": "atto", "batch": 2, "provider": provider, "precision": precision, **measured}


RESULTS = {
    "machine": {"cpu": "a processor", "threads": 2, "cpu_isa": "avx2", "torch": "2.13.0"},
    "date": "2026-01-01",
    "commit": "abc",
    "dirty": True,
    "limits": {"float32": {"copy_gb_per_s": 10.0, "gemm_gflop_per_s": 100.0}},
    "inference": [
        row(OURS, 10.0),
        row("eager", 40.0),
        row("openvino", 15.0),
        {"case": "atto-b2", "provider": "onnxruntime", "status": "skipped", "reason": "not installed"},
    ],
    "training": [row(OURS, 20.0), row("compile", 50.0)],
    "weight_gradient": [{"c": 96, "side": 56, "ms": {OURS: 1.0, "torch": 12.5}, "ratio": 12.5}],
    "memory": {OURS: 100.0, "eager": 550.0},
    "growth": {
        "batch": {"1": 2.0, "2": 4.0, "4": 8.0},
        "pixels": {"128": 1.0, "256": 4.0},
        "threads": {"1": 30.0, "2": 15.0},
    },
}


def test_the_lead_is_over_the_fastest_peer():
    (group,) = cpu_pages.groups(RESULTS["inference"]).values()
    assert cpu_pages.lead(group) == (1.5, "openvino")
    assert cpu_pages.lead({"eager": group["eager"]}) is None
    assert cpu_pages.lead({OURS: group[OURS]}) is None


def test_the_exponent_of_growth():
    assert cpu_pages.exponent({"1": 3.0, "2": 6.0, "8": 24.0}) == 1.0
    assert cpu_pages.exponent({"100": 1.0, "200": 4.0}) == 2.0


def test_the_page_has_every_part():
    text = cpu_pages.markdown(RESULTS)
    for expected in (
        "Commit abc with changes",
        "| atto, batch 2, float32 | 5.00 (5.00) | 20.00 (20.00) | 7.50 (7.50) | - | 1.50x OpenVINO | 50 % |",
        "ONNX Runtime: not installed.",
        "2.50x torch.compile",
        "| C=96, 56x56 | 1.00 | 12.50 | 12.5x |",
        "ours 100 MiB, eager 550 MiB (5.5 times less)",
        "batch^1.0 and as side^2.0",
        "30 ms on one thread, 15 ms on two, 2.00 times faster",
    ):
        assert expected in text


def test_the_plot(tmp_path):
    pytest.importorskip("matplotlib")
    cpu_pages.plot(RESULTS, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    cpu_pages.plot({**RESULTS, "inference": [], "training": []}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_a_group_is_measured():
    case = ModelCase("atto", 2, Setting("cpu", "float32", True), resolution=32, classes=10)
    rows = cpu_report.rows_of(case, (OURS, "eager"), 1, 1.0)
    assert [found["provider"] for found in rows] == [OURS, "eager"]
    for found in rows:
        assert found["status"] in ("ok", "skipped")  # skipped: ours, where no compiler built it
        if found["status"] == "ok":
            assert found["ms_per_image"] == pytest.approx(found["ms"] / 2, rel=1e-3) and found["best_ms"] > 0


def test_memory_is_that_of_the_process():
    cpu_report.reset_peak()
    before = cpu_report.memory("VmHWM")
    with mmap.mmap(-1, 64 << 20) as block:  # torch might reuse what it has resident already
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        assert cpu_report.memory("VmHWM") - before > 60 << 20


def test_parts_are_saved_as_they_come(tmp_path, monkeypatch):
    """A run cut short leaves what it has."""

    def broken(quick):
        raise KeyboardInterrupt

    monkeypatch.setattr(cpu_report, "PARTS", {"memory": lambda quick: RESULTS["memory"], "growth": broken})
    monkeypatch.setattr("sys.argv", ["cpu_report", "--out", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        cpu_report.main()
    (path,) = tmp_path.glob("*.json")
    assert json.loads(path.read_text())["memory"] == RESULTS["memory"]
    monkeypatch.setattr("sys.argv", ["cpu_report", "--out", str(tmp_path), "--only", "memory"])
    cpu_report.main()
    (page,) = tmp_path.glob("*.md")
    assert "5.5 times less" in page.read_text()
