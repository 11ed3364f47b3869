"""`explain`: the same answer as `cf.explain`, for machines and tensors that need not exist."""

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast import dispatch
from convnextv2_fast.testing import ALL_OPS, KERNEL_OPS


def test_is_what_the_library_says(cli):
    code, out, _ = cli("explain", "dwconv_layer_norm", "--shape", "1", "7", "7", "16")
    x, w, p = torch.zeros(1, 7, 7, 16), torch.zeros(16, 1, 7, 7), torch.zeros(16)
    assert code == 0 and out.rstrip("\n") == str(cf.explain("dwconv_layer_norm", x, w, p, p, p))


def test_options_reach_the_spec(cli):
    argv = ["--shape", "2", "14", "14", "40", "--dtype", "bfloat16", "--param-dtype", "float32", "--grad"]
    argv += ["--device", "cuda", "--layout", "patch"]
    code, out, _ = cli("explain", "dwconv_layer_norm", *argv)
    want = "bfloat16 activations (float32 parameters), C=40, patch layout, cuda, with gradients"
    assert code == 0 and out.startswith(f"dwconv_layer_norm: {want}\n  runs on: ")


def test_without_an_op_one_line_each(cli, without_rich):
    code, out, _ = cli("explain")
    rows = {line.split()[0]: line.split() for line in out.splitlines()[3:-1]}
    assert code == 0 and set(rows) == set(ALL_OPS)
    for op, cells in rows.items():
        spec = dispatch.Spec(op, "cpu", torch.float32, torch.float32, 96, "dense", False)
        assert cells[1] == dispatch.choose(spec).backend


def test_an_explicit_backend_that_does_not_exist(cli, monkeypatch):
    monkeypatch.setitem(dispatch._registry, "grn", (dispatch.implementations("grn")[-1],))
    code, out, _ = cli("explain", "grn", "--backend", "cpu")
    assert code == 0 and "runs on: nothing, an error is raised ('cpu' asked for by argument)" in out
    assert "not cpu: grn has no cpu implementation yet" in out
    code, out, _ = cli("explain", "--backend", "cuda")
    assert code == 0 and out.count("an error") == len(KERNEL_OPS)


def test_the_environment_is_obeyed(cli, monkeypatch):
    monkeypatch.setenv(dispatch.ENVIRONMENT, "torch")
    assert "runs on: torch ('torch' asked for by environment)" in cli("explain", "dwconv_layer_norm")[1]


@pytest.mark.parametrize("op", ["grn", "dwconv_layer_norm"])
def test_layouts(cli, op):
    """An op that never sees a layout is explained as it is called: without one."""
    out = cli("explain", op, "--layout", "site")[1]
    assert ("dense layout" in out and "takes no layout" in out) if op == "grn" else "site layout" in out
