"""`bench`: what it prints and writes; that no row is timed before it is right; interrupts and missing packages."""

import itertools
import json
import sys

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast import dispatch
from convnextv2_fast.bench import alone, providers, report, rows, runtimes, specs, tables, timing, worker
from convnextv2_fast.bench.rows import Row
from convnextv2_fast.bench.timing import Timing
from convnextv2_fast.cli import bench
from convnextv2_fast.cli.text import progress
from convnextv2_fast.spec import Implementation, always
from tests import peers


def answered_here(request):
    """What a worker would answer, computed in this process: the answer crosses as JSON."""
    return json.loads(json.dumps(worker.answer(json.loads(json.dumps(request)))))


@pytest.fixture(autouse=True)
def no_processes(monkeypatch):
    monkeypatch.setattr(alone, "ask", answered_here)


SMALL = ["bench", "--model", "atto", "--size", "64", "--batch", "1", "--threads", "1", "--device", "cpu"]
QUICK = [*SMALL, "--turns", "2", "--rounds", "1", "--warmup", "0"]
ROW = {
    "label",
    "ops",
    "median_ms",
    "p20_ms",
    "p80_ms",
    "images_per_second",
    "extra_memory_bytes",
    "difference_from_torch_backend",
    "calls_per_round",
    "times_ms",
    "error",
}


@pytest.mark.parametrize("terminal", [True, False])
def test_without_rich_a_terminal_gets_a_line_for_the_bar(terminal, monkeypatch, capsys, without_rich):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    with progress("tiny, infer", 8) as advance:
        advance()
    assert capsys.readouterr().err.startswith("tiny, infer: 8 steps; ") == terminal


def test_writes_json_and_a_plot(cli, tmp_path):
    pytest.importorskip("matplotlib")
    torch.set_num_threads(2)
    code, out, err = cli(*QUICK, "--json", str(tmp_path / "b.json"), "--plot", str(tmp_path / "b.png"))
    assert code == 0 and not err and torch.get_num_threads() == 2
    assert out.startswith("atto, inference, batch 1, 64x64, float32; ") and "threads: 1; torch " in out
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "b.json").read_text()
    found = json.loads(text)
    assert str(tmp_path) not in text
    assert {"schema", "complete", "arguments", "versions", "machine", "build", "backends", "rows"} <= set(found)
    assert found["schema"] == bench.SCHEMA and found["complete"] and found["machine"]["threads"] == 1
    assert found["arguments"]["device"] == "cpu" and found["arguments"]["turns"] == 2
    assert [row["label"] for row in found["rows"]] == ["fast (auto)", "fast (torch)"]
    for row in found["rows"]:
        assert set(row) == ROW and row["error"] is None and len(row["times_ms"]) == 2
        assert 0 < row["p20_ms"] <= row["median_ms"] <= row["p80_ms"]
        assert row["images_per_second"] == pytest.approx(1e3 / row["median_ms"])
        assert row["difference_from_torch_backend"] < 1e-4 and row["label"] in out
    with torch.inference_mode():
        chosen = cf.explain("block", torch.zeros(1, 7, 7, 40)).chosen
        ops = ("dwconv_layer_norm", "mlp_grn") if chosen == "composed" else ("block",)
    assert set(found["rows"][0]["ops"]) == {"patch_conv", *ops}
    if chosen != "composed":
        assert found["rows"][0]["ops"]["block"] == [chosen]
    assert found["rows"][1]["ops"] == {op: ["torch"] for op in ("patch_conv", "dwconv_layer_norm", "mlp_grn")}


def test_pretraining_in_half_precision_without_rich(cli, without_rich):
    argv = ["--model", "fcmae-atto", "--mode", "train", "--dtype", "bfloat16", "--backend", "torch", "--rounds", "1"]
    code, out, _ = cli(*QUICK, *argv)
    lines = out.splitlines()
    assert code == 0 and lines[0].startswith("fcmae-atto, forward and backward, batch 1, 64x64, bfloat16; ")
    assert lines[1].split() == ["ms", "p20", "p80", "images/s", "speed-up", "difference"]
    assert lines[3].startswith("fast (torch)") and lines[3].split()[-2:] == ["1.00x", "0e+00"]
    assert len({len(line) for line in lines[1:4]}) == 1, "columns are aligned"


def test_the_plot_needs_matplotlib(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = cli(*SMALL, "--plot", "x.png")
    want = "python -m convnextv2_fast bench: error: --plot needs matplotlib: python -m pip install matplotlib\n"
    assert (code, out, err) == (2, "", want)


def test_a_wrong_result_gets_no_times(cli, monkeypatch):
    reference = dispatch.implementations("mlp_grn")[-1]
    wrong = Implementation("cpu", lambda call: reference.run(call) * 1.1, always)
    monkeypatch.setitem(dispatch._registry, "mlp_grn", (wrong, reference))
    code, out, _ = cli(*QUICK)
    assert code == 1 and "fast (auto): not measured: its output differs from the torch backend's by " in out
    row = next(line for line in out.splitlines() if "fast (torch)" in line)
    assert "1.00x" in row


def test_a_row_that_dies_leaves_the_others(cli, monkeypatch):
    def dies(model, **options):
        def run(x):
            raise RuntimeError("no C++ compiler\nlong story")

        return run

    monkeypatch.setattr(torch, "compile", dies)
    code, out, _ = cli(*QUICK, "--backend", "torch", "--compile")
    assert code == 1 and "torch.compile (torch backend): not measured: RuntimeError: no C++ compiler\n" in out
    assert "1.00x" in out and "long story" not in out


def test_compile_runs_the_torch_backend(cli, monkeypatch, tmp_path):
    seen = []

    def compiled(model, options):
        assert options == {"freezing": True}

        def run(x):
            seen.append(dispatch._overrides.stack)
            return model(x)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    code, out, _ = cli(*QUICK, "--backend", "auto", "--compile")
    assert code == 0 and set(seen) == {((None, "torch"),)}
    assert "torch.compile (torch backend): patch_conv on torch, dwconv_layer_norm on torch, mlp_grn on torch" in out


@pytest.mark.parametrize(
    ("peer", "package", "label"),
    [
        ("timm", "timm", "timm (eager)"),
        ("onnxruntime", "onnx", "ONNX Runtime"),
        ("openvino", "openvino", "OpenVINO"),
    ],
)
def test_an_absent_peer_is_said_and_no_failure(cli, monkeypatch, peer, package, label):
    monkeypatch.setitem(sys.modules, package, None)
    code, out, _ = cli(*QUICK, "--backend", "torch", "--peer", peer)
    assert code == 0 and f"{label}: not measured: ModuleNotFoundError" in out and "1.00x" in out


@pytest.mark.parametrize("peer", ["timm", "transformers"])
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_peers_of_pytorch_compute_the_same(cli, tmp_path, monkeypatch, peer, mode):
    try:
        getattr(peers, peer)()
    except ImportError:
        pytest.skip(f"{peer} is not installed")
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)
    file = tmp_path / "b.json"
    argv = ["--backend", "torch", "--compile", "--peer", peer, "--mode", mode, "--json", str(file)]
    code, out, _ = cli(*QUICK, "--turns", "1", *argv)
    rows = json.loads(file.read_text())["rows"][2:]
    assert code == 0, out
    assert [row["label"] for row in rows] == [f"{peer} ({form})" for form in ("eager", "torch.compile", "accelerated")]
    for row in rows:
        assert len(row["times_ms"]) == 1 and row["ops"] == {}
        assert 0 < row["difference_from_torch_backend"] < 1e-5, "other code than the torch backend's"


@pytest.mark.parametrize(("peer", "label"), [("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO")])
def test_runtimes_compute_the_same(cli, tmp_path, peer, label):
    pytest.importorskip(peer)
    code, out, err = cli(*QUICK, "--backend", "auto", "--peer", peer, "--json", str(tmp_path / "b.json"))
    row = json.loads((tmp_path / "b.json").read_text())["rows"][1]
    assert code == 0 and row["label"] == label and len(row["times_ms"]) == 2
    assert 0 < row["difference_from_torch_backend"] < 1e-5
    assert "[torch.onnx]" not in out + err, "the exporter's talk is no part of the report"


def test_an_exporter_that_fails_is_a_failure_and_leaves_the_others(cli, monkeypatch):
    pytest.importorskip("onnxruntime")

    def fails(*args):
        raise ValueError("no such operator")

    monkeypatch.setattr(runtimes, "onnx_model", fails)
    code, out, _ = cli(*QUICK, "--backend", "torch", "--peer", "onnxruntime")
    assert code == 1 and "ONNX Runtime: not measured: ValueError: no such operator" in out and "1.00x" in out


@pytest.mark.parametrize(("answers", "times"), [(2, 0), (5, 3)])
def test_an_interrupt_reports_what_there_is(cli, monkeypatch, tmp_path, answers, times):
    """Two rows: two checks, then turns."""
    asked = itertools.count()

    def interrupted(request):
        if next(asked) == answers:
            raise KeyboardInterrupt
        return answered_here(request)

    monkeypatch.setattr(alone, "ask", interrupted)
    code, out, err = cli(*QUICK, "--json", str(tmp_path / "b.json"))
    assert code == 130 and err == "interrupted; this is what was measured until then\n"
    assert ("images/s" in out) == bool(times)
    found = json.loads((tmp_path / "b.json").read_text())
    assert not found["complete"] and sum(len(row["times_ms"]) for row in found["rows"]) == times


def test_the_frozen_model_is_a_row(cli, monkeypatch):
    frozen = []
    monkeypatch.setattr(providers, "freeze", lambda model: frozen.append(cf.freeze(model)) or frozen[-1])
    code, out, _ = cli(*QUICK, "--backend", "torch", "--freeze")
    assert code == 0 and "fast (frozen)" in out and all(map(cf.is_frozen, frozen))
    assert len(frozen) == 3, "a check and two turns"


@pytest.mark.parametrize("argv", [["--turns", "2"], ["--neighbour"]])
def test_what_is_for_cpus_is_refused_on_a_gpu(cli, monkeypatch, argv):
    monkeypatch.setattr(bench, "require_device", lambda at: at)
    code, out, err = cli("bench", "--device", "cuda", *argv)
    assert code == 2 and not out and "--turns and --neighbour are for --device cpu" in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--mode", "train", "--freeze"], "--freeze: classifiers are frozen, for inference"),
        (["--backend", "triton"], "backend 'triton' cannot run float32 activations"),
        (["--backend", "cuda"], "patch_conv: backend 'cuda' cannot run float32 activations"),
    ],
)
def test_a_backend_that_runs_nothing_gets_no_row_under_its_name(cli, argv, message):
    code, out, err = cli(*QUICK, *argv)
    assert code == 2 and not out and message in err and err.count("\n") == 1


def test_a_file_that_cannot_be_written(cli, tmp_path):
    (tmp_path / "b.json").mkdir()
    code, out, err = cli(*QUICK, "--json", str(tmp_path / "b.json"))
    assert code == 2 and not out and "there is no such folder to write a file to" in err


def test_the_specs_are_those_of_the_model(monkeypatch):
    """What bench says of the ops is what dispatch was asked while the model ran."""
    asked = set()
    choose = dispatch.choose

    def recorded(spec, backend=None):
        asked.add(spec)
        return choose(spec, backend)

    monkeypatch.setattr(dispatch, "choose", recorded)
    models = {name: providers.build(name).eval() for name in ("atto", "fcmae-atto")}
    with torch.inference_mode():
        for name, model in models.items():
            asked.clear()
            model(providers.images(1, 64))
            assert asked == set(specs.specs_of(name, torch.device("cpu"), torch.float32, False)), name


def test_rounds_are_interleaved_and_begin_with_another_row(monkeypatch):
    """On a CPU each turn begins with silence and an untimed call: another runtime's threads may still be spinning."""
    order = []
    monkeypatch.setattr(timing.time, "sleep", lambda seconds: order.append("." if seconds == 0.02 else "?"))
    monkeypatch.setattr(rows, "ROUND_SECONDS", 0.0)
    found = [Row(name, lambda name=name: order.append(name)) for name in "abc"]
    rows.take(found, torch.device("cpu"), warmup=0, rounds=3)
    assert "".join(order) == ".aa.bb.cc.bb.cc.aa.cc.aa.bb" and all(len(row.timing.seconds) == 3 for row in found)


def test_fast_calls_are_repeated_within_a_round(monkeypatch):
    class Watch:
        def measure(self, run, first, calls):
            return sum(run(i) or 0.25e-3 for i in range(first, first + calls))

    calls = []
    row = Row("a", lambda: calls.append(1))
    monkeypatch.setattr(rows, "watch_for", lambda device: Watch())
    rows.take([row], torch.device("cpu"), warmup=3, rounds=0)
    assert len(calls) == 3 and row.timing.iterations == 40


def test_a_row_that_fails_while_it_is_timed_leaves_the_others():
    def fails():
        if next(calls) == 2:
            raise RuntimeError("out of memory\nlong story")

    calls, found = itertools.count(), [Row("fails", None), Row("fine", lambda: None)]
    found[0].step = fails
    rows.take(found, torch.device("cpu"), warmup=1, rounds=2)
    assert found[0].error == "RuntimeError: out of memory" and len(found[1].timing.seconds) == 2


def test_each_row_is_measured_in_processes_of_its_own(cli, monkeypatch):
    """Checks come first; each turn begins with another row; a row that fails is not asked again."""
    asked = []

    def told(request):
        asked.append((request["task"], request["arguments"]["label"].split()[1].strip("()"), request["threads"]))
        assert request["task"] == "check" or request["turn"]["rounds"] == 1
        if asked[-1][:2] == ("time", "reference"):
            return {"error": "its process ended with code -11: it said nothing", "kind": "failed"}
        return {"difference": 0.0} if request["task"] == "check" else {"seconds": [3.0, 1.0, 2.0], "iterations": 1}

    monkeypatch.setattr(alone, "ask", told)
    monkeypatch.setattr(providers, "entries", lambda request: [providers.Entry(f"fast ({n})", None, {}) for n in names])
    monkeypatch.setattr(providers, "reference", lambda request: Row("", lambda: torch.ones(1)))
    names = ("auto", "torch", "reference")
    code, out, _ = cli(*QUICK, "--turns", "3")
    assert code == 1 and "fast (reference): not measured: its process ended with code -11" in out
    assert [name for task, name, threads in asked if task == "check"] == list(names) and {a[2] for a in asked} == {1}
    timed = [name for task, name, _ in asked[3:]]
    assert timed == ["auto", "torch", "reference", "torch", "auto", "auto", "torch"]
    assert "2000.00" in out and "in turn; median, 20th and 80th percentile of 3 turns" in out


def test_percentiles():
    assert Timing([7.0]).percentiles() == {"ms": 7e3, "p20": 7e3, "p80": 7e3}
    assert Timing([5.0, 1.0, 2.0, 4.0, 3.0, 6.0]).percentiles() == {"ms": 3500.0, "p20": 2e3, "p80": 5e3}


def test_compare_refuses_what_is_not_finite():
    row = Row("a", lambda: torch.tensor([1.0, float("nan")]))
    rows.compare(row, torch.ones(2).double(), 1e-4, torch.device("cpu"))
    assert row.difference is None and row.error.startswith("its output differs from the torch backend's by nan")
    row = Row("a", lambda: torch.ones(3))
    rows.compare(row, torch.ones(2).double(), 1e-4, torch.device("cpu"))
    assert row.error == "its output has shape (3,), the torch backend's (2,)"


def test_plain_table():
    table = tables.plain_table(("", "ms"), [("fast (auto)", "1.25"), ("x", "100.50")])
    assert table == "                 ms\n-----------  ------\nfast (auto)    1.25\nx            100.50"


def test_speed_ups_are_against_timm_where_it_was_measured(capsys):
    def row(label, *milliseconds):
        return Row(label, lambda: None, timing=Timing([1e-3 * each for each in milliseconds]))

    found = [row("fast (auto)", 1.0, 2.0, 3.0), row("fast (torch)", 4.0)]
    report.report("title", found, 1, False, "ms")
    shown = capsys.readouterr().out
    assert "2.00x" in shown and "speed-up: against fast (torch); --peer timm adds timm's model" in shown
    assert "spread over more than 30%: fast (auto)\n" in shown
    report.report("title", [*found, row("timm (eager)", 8.0)], 1, False, "ms")
    shown = capsys.readouterr().out
    assert "4.00x" in shown and "speed-up: against timm (eager)\n" in shown
