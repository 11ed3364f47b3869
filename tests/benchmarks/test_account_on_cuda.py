"""The lines of the account that only a GPU reaches, on one that is pretended: names and order of calls, not results."""

import time
from dataclasses import replace

import pytest

from benchmarks.reports import naming, tidy
from benchmarks.reports.account import correctness, host, kernels, ops, scale, workers
from benchmarks.reports.account.context import Context
from benchmarks.reports.account.scale import Subject
from tests.benchmarks.pretended import pretend
from tests.benchmarks.test_gpu_account import ORIGIN


@pytest.fixture
def calls():
    return []


@pytest.fixture
def context(tmp_path, monkeypatch, calls):
    tidy.write(tmp_path / "account.csv", [])
    monkeypatch.setattr(scale, "prepare_process", lambda context: None)
    monkeypatch.setattr(scale.providers, "compile_backend", "")
    monkeypatch.setattr(correctness, "backends", lambda context: ("cpu",))
    with pretend(monkeypatch, calls):
        yield Context(tmp_path, tmp_path, ORIGIN, "cuda", True, "a part", time.monotonic() + 60)


def test_the_host(context, monkeypatch, calls):
    copy_and_product = host.copy_and_product
    monkeypatch.setattr(host, "copy_and_product", lambda device, dtype: copy_and_product("cpu", dtype))
    host.run(context)
    cases = {row.case for row in tidy.read(context.rows)}
    assert {"launch of a small kernel, queued", "launch of a small kernel, waited for", "copy"} <= cases
    assert {"torch.cuda.is_available", "torch.cuda.get_device_properties", "torch.cuda.current_stream"} <= cases


@pytest.mark.parametrize("kind", ["inference", "training", "pretraining"])
def test_a_captured_model(kind, context, calls):
    """Captured for each input set, replayed when asked, its memory measured; nothing is given back between turns."""
    held, subject = workers.Held("fast-graph", context), Subject(kind, 2, True)
    assert held.trace(subject) < 1e-3
    calls.clear()
    state = held.ready(subject)
    assert state["peak_mib"] == 2.0 and state["rel_error"] < 1e-3 and state["once"] > 0
    assert calls.count("capture") == subject.case().sets and "replay" in calls
    calls.clear()
    held.turn(subject, 3)
    assert calls.count("replay") == 5 and "empty" not in calls, "two calls are not timed"
    held.drop(subject)
    assert not held.runs


@pytest.mark.parametrize("provider", ["fast", "fast-compile", "timm-compile"])
def test_a_model_that_is_launched(provider, context, calls):
    held, subject = workers.Held(provider, context), Subject("training", 2, True)
    held.trace(subject)
    held.ready(subject)
    calls.clear()
    assert held.turn(subject, 2) > 0
    assert "capture" not in calls and calls[-1] == "empty", "the memory is left to the others"
    assert {side for side, *_ in held.traced(subject)} == {"cpu"}


def test_a_graph_that_gives_another_result_is_refused(context, monkeypatch):
    held, subject = workers.Held("fast-graph", context), Subject("inference", 2, True)
    held.trace(subject)
    right = workers.graphed
    monkeypatch.setattr(workers, "graphed", lambda run, sets: lambda i: 1.5 * right(run, sets)(i))
    with pytest.raises(workers.checks.CheckFailed, match="beside its launches"):
        held.ready(subject)


@pytest.mark.parametrize("op", ["grn", "mlp_grn", "sparse_dwconv", "dwconv7x7"])
def test_ops_are_replayed(op, context, calls):
    ops.one(op, 1, 1, context)
    rows = tidy.read(context.rows)
    assert rows and all(row.mode.endswith(" graph") and row.ms for row in rows) and not context.said()
    assert "capture" in calls and "replay" in calls


def test_each_kernel_is_marked_and_profiled(context, calls, monkeypatch):
    few = [
        replace(each, backend="cpu", shape=replace(each.shape, n=1, h=7, w=7, c=8))
        for each in kernels.cases("cuda")[:2]
    ]
    monkeypatch.setattr(kernels, "cases", lambda device: few)
    assert kernels.main(["--device", "cuda", "--ends", "inf"]) == 0
    shown = [call for call in calls if call != "wait"]
    assert shown == ["profiler on", "marker", "profiler off"] * 2


def test_every_case_of_a_gpu_has_its_rows_in_the_right_place(context):
    """Names that results are looked up by."""
    cases = {kind: Subject(kind, 64, False).case() for kind in ("inference", "training", "pretraining")}
    assert [case.what for case in cases.values()] == [
        "convnextv2_tiny-224px-forward",
        "convnextv2_tiny-224px-forward_backward",
        "fcmae_tiny-224px-grn_batch-forward_backward",
    ]
    assert [case.setting.precision for case in cases.values()] == ["bfloat16", "amp", "amp"]
    wide = replace(context, dry=False)
    shapes = {op: [str(shape) for shape in scale.op_shapes(op, wide, 128)] for op in ("mlp_grn", "patch_conv")}
    assert shapes["mlp_grn"] == ["128x56x56x96", "128x28x28x192", "128x14x14x384", "128x7x7x768"]
    assert shapes["patch_conv"][:2] == ["128x224x224x3to96k4", "128x56x56x96to192k2"] and len(shapes["patch_conv"]) == 4
    assert naming.published("fast-cuda-mma", graph=True)[1] == "cuda-mma graph"
