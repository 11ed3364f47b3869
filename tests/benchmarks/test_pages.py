"""The reports on FCMAE, on accelerated models and on numerics: rows of what was measured, and pages of those rows."""

import pytest
import torch
from torch import nn

from benchmarks.reports import accelerate_report, fcmae_report, numerics_report, program, tidy
from benchmarks.reports.naming import OURS, published
from benchmarks.reports.program import Run
from benchmarks.reports.tidy import Origin, Row

ORIGIN = Origin("a processor, avx2, 2 threads", "2.13.0", "", "abc", False)


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "rows.csv"
    tidy.write(path, [])
    return Run(ORIGIN, "2030-01-01", path, save=False)


class Subject:
    """FCMAE's subject with nothing to compute."""

    def __init__(self, size):
        self.ours = self
        self.images = None

    def step(self):
        return {name: lambda _: torch.ones(1) for name in ("fast", *fcmae_report.RIVALS)}

    encoder = step

    def gen_random_mask(self, images, ratio):
        return ratio

    def kept(self, mask):
        return round(49 * (1 - mask))

    def encode(self, mask):
        return torch.ones(1)


def test_fcmae_is_measured_beside_every_form_of_masked_dense(run, monkeypatch):
    monkeypatch.setattr(fcmae_report, "Subject", Subject)
    fcmae_report.beside(run, 1, 1.0)
    for size in fcmae_report.SIZES:
        fcmae_report.by_ratio(run, size, 1)
    rows = tidy.read(run.path)
    assert {row.part for row in rows} == {"fcmae"} and all(row.ms > 0 for row in rows)
    steps = fcmae_report.steps(rows)
    assert set(steps) == {(size, part) for size in ("atto", "tiny") for part in ("encoder", "step")}
    assert set(steps["tiny", "step"]) == {(OURS, "eager"), *map(published, fcmae_report.RIVALS)}
    shares = fcmae_report.shares(rows, "atto")
    assert [(ratio, kept) for ratio, kept, _ in shares][:2] == [(0.0, 49), (0.1, 44)] and len(shares) == 10
    assert len(fcmae_report.markdown(rows).splitlines()) > 30
    pytest.importorskip("matplotlib")
    assert len(fcmae_report.figure(rows).axes) == 2
    assert fcmae_report.figure(rows[:5]) is None, "without the shares there is nothing to draw"


def test_a_rival_that_differs_gets_no_row():
    calls = {"fast": lambda _: torch.ones(1), "masked-dense": lambda _: torch.ones(1) * 1.001}
    with pytest.raises(AssertionError, match=r"masked-dense: differs by 1\.0e-03"):
        program.agreed(calls)


def test_accelerated_models_are_measured(run, monkeypatch):
    modes = ("eager", "compile", accelerate_report.FAST, accelerate_report.UNPACKED)
    monkeypatch.setattr(accelerate_report, "MODELS", {"timm/some": lambda: nn.Linear(1, 1)})
    monkeypatch.setattr(accelerate_report.machine, "version", lambda package: "1.2")
    monkeypatch.setattr(
        accelerate_report, "forms", lambda model, x, train: {m: lambda _: None for m in modes[: 4 - train]}
    )
    accelerate_report.measured(run, 1, 1.0)
    rows = tidy.read(run.path)
    assert [(row.provider, row.mode) for row in rows[:4]] == [
        ("timm", "eager"),
        ("timm", "compile"),
        (OURS, "accelerated"),
        (OURS, "accelerated, nothing packed"),
    ]
    assert {row.case for row in rows} == {"timm/some-224px-forward", "timm/some-224px-forward_backward"}
    assert len(rows) == 7 and all(row.notes["timm"] == "1.2" for row in rows)


def test_the_page_of_accelerated_models():
    rows = [
        Row.of(ORIGIN, "accelerate", f"timm/some-224px-{passes}", whose, mode=mode, batch=8, dtype="float32", ms=ms)
        for passes, whose, mode, ms in (
            ("forward", "timm", "eager", 30.0),
            ("forward", OURS, "accelerated", 10.0),
            ("forward", OURS, "accelerated, nothing packed", 11.0),
            ("forward_backward", "timm", "compile", 30.0),
            ("forward_backward", OURS, "accelerated", 20.0),
        )
    ]
    note = "modules=22; added_bytes=0; parameters_mib=109.236; packed_mib=106.2"
    rows.append(Row.of(ORIGIN, "accelerate-cost", "timm/some", OURS, mode="accelerated", ms=7.9, note=note))
    text = accelerate_report.markdown(rows)
    assert "| timm/some | inference | 10 | 3.00x |  | 1.10x |" in text
    assert "| timm/some | training | 20 |  | 1.50x |  |" in text
    assert "| timm/some | 22 | 7.9 | 0 | 109 | 106 |" in text


def test_numerics_of_a_model_are_measured(run, monkeypatch):
    monkeypatch.setattr(numerics_report, "PRECISIONS", numerics_report.PRECISIONS[3:4])
    numerics_report.measured(run, "atto")
    rows = tidy.read(run.path)
    assert [(row.case, row.provider, row.mode) for row in rows] == [
        ("convnextv2_atto-64px-logits", "pytorch", "plain"),
        ("convnextv2_atto-64px-gradients", "pytorch", "plain"),
        ("convnextv2_atto-64px-logits", OURS, "eager"),
        ("convnextv2_atto-64px-gradients", OURS, "eager"),
    ]
    assert all(row.dtype == "amp" and row.batch == 2 and 1e-4 < row.rel_error < 0.1 for row in rows)


def error(provider, mode, kind, value):
    case = f"convnextv2_atto-64px-{kind}"
    return Row.of(ORIGIN, "numerics", case, provider, mode=mode, batch=2, dtype="bfloat16", rel_error=value)


def test_the_page_of_numerics_applies_the_rule():
    """Twice plain PyTorch's error and four eps: 1/32 in bfloat16."""
    rows = [error("pytorch", "plain", kind, 0.1) for kind in numerics_report.KINDS]
    rows += [error(OURS, "eager", kind, value) for kind, value in (("logits", 0.23), ("gradients", 0.05))]
    rows += [error(OURS, "compile", kind, value) for kind, value in (("logits", 0.05), ("gradients", 0.24))]
    text = numerics_report.markdown(rows)
    assert "| atto | bfloat16 | eager | 2.3e-01 | 2.30x | 5.0e-02 | 0.50x |" in text
    assert "1 of 2 rows keep the rule; the largest ratio is 2.40." in text
