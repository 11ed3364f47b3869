"""`check`: passes here, and finds whatever a kernel can do wrong."""

import json
import time

import pytest
import torch

from convnextv2_fast import dispatch, library
from convnextv2_fast.bench.checks import Line, check_models, judge
from convnextv2_fast.bench.settings import no_tf32, threads
from convnextv2_fast.cli import check
from convnextv2_fast.spec import Implementation, always

CPU = torch.device("cpu")


def broken_forward(y, x):
    return y * 1.01


def broken_gradient(y, x):
    return y + 0.1 * (x - x.detach())


def broken_inference(y, x):
    return y if y.requires_grad else y + 0.1


def not_finite(y, x):
    return torch.where(y == y.max(), torch.nan, y)


def wrong_shape(y, x):
    return y.unsqueeze(0)


def raises(y, x):
    raise RuntimeError("misaligned address\nand forty lines of advice")


def good(y, x):
    return y.clone()


@pytest.fixture
def pretend(monkeypatch):
    """`pretend(op, spoil, reasons)` gives `op` a "cpu" implementation: the reference, then `spoil`."""

    def register(op, spoil, reasons=always):
        reference = dispatch.implementations(op)[-1]

        def run(call):
            return spoil(reference.run(call), call[0])

        monkeypatch.setitem(dispatch._registry, op, (Implementation("cpu", run, reasons), reference))

    return register


def test_passes_here_in_time(cli):
    start = time.process_time()
    code, out, err = cli("check", "--json")
    seconds = time.process_time() - start
    found = json.loads(out)
    assert code == 0 and found["passed"] and not err
    lines = [Line(**entry) for entry in found["results"]]
    assert {line.what for line in lines} == {*dispatch.registered_ops(), "model atto", "model fcmae-atto"}
    for line in lines:
        if line.status == "ok":
            assert 0 <= line.error <= line.tolerance and line.note
        else:
            assert line.status == "skipped" and line.note, line
    models = {(line.what, line.backend, line.dtype) for line in lines if line.what.startswith("model") and line.device}
    assert len(models) >= 2 * 2 * 2, "two models, two backends, two dtypes"
    runnable = dispatch.backends()["cpu"] == []
    assert any(line.status == "ok" and line.backend == "cpu" for line in lines) == runnable
    assert seconds < 60, "20 s on two idle cores; processor time, since tests share the machine"


def test_a_good_implementation_passes_in_every_layout_and_dtype(cli, pretend):
    pretend("grn", good)
    code, out, _ = cli("check", "--op", "grn", "--device", "cpu")
    head, *lines = out.splitlines()
    assert head.split()[:4] == ["result", "op", "or", "model"]
    assert code == 0 and len(lines) == 5 * len(check.DTYPES) + 1
    assert all(line.startswith("ok      grn") and "error" in line and "allowed" in line for line in lines[:-1])
    assert lines[-1].startswith("20 ok, 0 failed, 0 skipped, in ")


def test_a_failure_in_json(cli, pretend):
    pretend("layer_norm", not_finite)
    code, out, _ = cli("check", "--op", "layer_norm", "--device", "cpu", "--json")
    found = json.loads(out)
    assert code == 1 and not found["passed"] and {line["status"] for line in found["results"]} == {"FAIL"}


@pytest.mark.parametrize(
    ("spoil", "note"),
    [
        (broken_forward, "(output"),
        (broken_gradient, "(gradient of x)"),
        (broken_inference, "(output)"),
        (not_finite, "not finite"),
        (wrong_shape, "output: shape (1, "),
        (raises, "RuntimeError: misaligned address"),
    ],
)
def test_a_broken_implementation_fails(cli, pretend, spoil, note):
    pretend("grn", spoil)
    code, out, _ = cli("check", "--op", "grn", "--device", "cpu")
    lines = [line for line in out.splitlines() if line.startswith("FAIL")]
    assert code == 1 and ", 0 failed" not in out and "forty lines" not in out
    assert any("float32" in line and note in line for line in lines), out


def test_a_broken_implementation_fails_in_whole_models(pretend):
    pretend("mlp_grn", broken_forward)
    lines = check_models(None, [CPU])
    auto, torch_backend = next(lines), next(lines)
    assert (auto.backend, auto.status) == ("auto", "FAIL") and auto.error > auto.tolerance
    assert (torch_backend.backend, torch_backend.status) == ("torch", "ok")


def test_a_kernel_that_dies_in_a_whole_model_is_a_finding(pretend):
    pretend("mlp_grn", raises)
    line = next(check_models(None, [CPU]))
    assert line.status == "FAIL" and line.note == "RuntimeError: misaligned address"


def test_an_explicit_backend_that_refuses_a_model_is_skipped(pretend):
    pretend("patch_conv", good, lambda spec: ["not on a Monday"])  # the stem: the first op of a model
    line = next(check_models("cpu", [CPU]))
    assert line.status == "skipped" and "not on a Monday" in line.note


def test_refusals_are_skipped_with_their_reasons(cli, pretend):
    def picky(spec):
        return ["only float32 here"] if spec.dtype != torch.float32 else []

    pretend("patch_conv", good, lambda spec: ["no sparse layouts"] if spec.layout != "dense" else picky(spec))
    code, out, _ = cli("check", "--op", "patch_conv", "--device", "cpu")
    lines = out.splitlines()
    assert code == 0 and lines[-1].startswith("2 ok, 0 failed, 9 skipped")  # dense, rows; 2 x 3 dtypes and 3 layouts
    assert sum("only float32 here" in line for line in lines) == 6
    assert sum("no sparse layouts" in line for line in lines) == 3
    pretend("patch_conv", good, lambda spec: ["never"])
    code, out, _ = cli("check", "--op", "patch_conv", "--device", "cpu")
    assert code == 0 and out.splitlines()[1].split() == ["skipped", "patch_conv", "cpu:", "never"]


def test_an_implementation_for_inference_only_is_checked_for_that(cli, pretend):
    pretend("layer_norm", good, lambda spec: ["has no backward"] if spec.needs_grad else [])
    code, out, _ = cli("check", "--op", "layer_norm", "--device", "cpu")
    lines = out.splitlines()[1:-1]
    assert code == 0 and len(lines) == 8
    assert all("(output; inference only: has no backward)" in line for line in lines)


def test_only_one_backend(cli, pretend, monkeypatch):
    pretend("grn", good)
    monkeypatch.setitem(dispatch._registry, "layer_norm", (dispatch.implementations("layer_norm")[-1],))
    code, out, _ = cli("check", "--op", "grn", "--op", "layer_norm", "--backend", "cpu", "--device", "cpu")
    assert code == 0 and "layer_norm" not in out and "20 ok" in out


def test_judge_keeps_the_worst_result():
    line, zero = Line("ok", "op", "cpu"), torch.zeros(20, dtype=torch.float64)
    one = torch.ones(20, dtype=torch.float64)
    exact, plain = {"a": one, "b": one, "c": one}, {"a": one, "b": one * 1.1, "c": one}
    judge(line, {"a": one + 1e-7, "b": one * 1.1, "c": one + 2e-7}, plain, exact, torch.float32)
    assert line.status == "ok" and line.note == "b" and line.error == pytest.approx(0.1)
    judge(line, {"c": one + 1e-6}, plain, exact, torch.float32)
    assert line.status == "FAIL" and line.note == "c"
    judge(line, {"a": one}, plain, exact, torch.float32)
    assert line.status == "FAIL" and line.note == "c"
    judge(line, {"a": one * torch.nan}, plain, exact, torch.float32)
    judge(line, {"a": zero + 5}, plain, exact, torch.float32)
    assert line.status == "FAIL" and line.note == "a: not finite" and line.error is None


def test_settings_are_restored():
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision(), torch.get_num_threads()
    torch.set_float32_matmul_precision("high")
    with pytest.raises(KeyError), no_tf32(), threads(1):
        assert not torch.backends.cudnn.allow_tf32 and torch.backends.cudnn.enabled
        assert torch.get_float32_matmul_precision() == "highest" and torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_float32_matmul_precision() == "high"
    torch.set_float32_matmul_precision(before[1])
    assert before == (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision(), torch.get_num_threads())


def test_a_missing_library_fails(cli, monkeypatch):
    """The one for the device at hand, unless another backend is asked for or it is said to be intended."""
    name = library.expected()
    monkeypatch.setitem(library._missing, name, "it is not there")
    monkeypatch.delenv(library.QUIET_ENVIRONMENT, raising=False)
    code, out, _ = cli("check", "--op", "grn")
    assert code == 1 and out.splitlines()[1].startswith(f"FAIL    _C_{name}.so") and "(it is not there)" in out
    assert cli("check", "--op", "grn", "--backend", "triton")[0] == 0
    monkeypatch.setenv(library.QUIET_ENVIRONMENT, "1")
    assert cli("check", "--op", "grn")[0] == 0
