"""The op block: which implementation runs, and that both are the same. It is the entry to the tests of the op; the
others are:

* `test_all_ops.py -k block`: every dtype and layout against float64; `test_errors.py`;
* `tests/native/test_mlp_grn_native.py`: the fused operator for every instruction set;
* `tests/models`, `tests/adapters`: the blocks of the models; `tests/test_fusion.py`: when they run as this op.
"""

import contextlib

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast import dispatch, library
from convnextv2_fast.ops._shared import packed
from convnextv2_fast.testing import make

MISSING = library.why_not("cpu")
fused = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


def arguments(dtype=torch.float32, kind="dense"):
    problem = make("block", 2, 6, 5, 8, kind).to(dtype, False)
    return list(problem.tensors.values())[:-1], problem


def explained(tensors, **options):
    return cf.explain("block", *tensors, **options)


@fused
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_one_operator_is_the_two_ops(dtype):
    _, problem = arguments(dtype)
    with torch.inference_mode():
        once, twice = problem.public(backend="cpu"), problem.public(backend="composed")
    torch.testing.assert_close(once, twice, rtol=4 * torch.finfo(dtype).eps, atol=16 * torch.finfo(dtype).eps)


@fused
def test_explain_says_which_runs(monkeypatch):
    tensors, _ = arguments()
    assert explained(tensors).chosen == "composed", "gradients may be wanted"
    with torch.inference_mode():
        assert explained(tensors).chosen == "cpu"
        with cf.use_backend("torch", op="mlp_grn"):
            found = explained(tensors)
        assert found.chosen == "composed" and found.reasons["cpu"] == ["mlp_grn is asked to run on torch"]
        with torch.autocast("cpu"):
            assert "it does not run under autocast" in explained(tensors).reasons["cpu"]
        assert explained(tensors, backend="torch").chosen == "composed"
        others = [*tensors[:2], None, *tensors[3:]]
        assert explained(others).reasons["cpu"] == ["it does not take a convolution without bias"]
        wide = [t.double() if i == 3 else t for i, t in enumerate(tensors)]
        assert explained(wide).reasons["cpu"] == ["it does not take parameters in float64"]
        monkeypatch.setattr(packed, "enabled", False)
        assert "packed weights" in explained(tensors).reasons["cpu"][0]


@pytest.mark.parametrize("how", ["strided", "inference", "rows"])
def test_parameters_and_rows_of_any_kind(how):
    """Parameters with gaps, or made in inference mode, run in one operator; rows in two."""
    _, problem = arguments(kind="rows" if how == "rows" else "dense")
    if how == "strided":
        problem.tensors["b1"] = torch.stack((problem.tensors["b1"],) * 2, 1)[:, 0]
    if how == "inference":
        with torch.inference_mode():
            problem.tensors = {name: t.clone() for name, t in problem.tensors.items()}
    with torch.inference_mode():
        assert dispatch.choose(problem.spec()).backend == ("composed" if how == "rows" or MISSING else "cpu")
        got = problem.public()
    torch.testing.assert_close(got, problem.to(torch.float64, False).reference().float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("missing", ["gamma", "beta"])
@pytest.mark.parametrize("backend", [None, "cpu", "composed", "torch"])
@pytest.mark.parametrize("kind", ["dense", "rows"])
def test_half_of_grn_is_refused(missing, backend, kind):
    _, problem = arguments(kind=kind)
    problem.tensors[missing] = None
    with torch.inference_mode(), pytest.raises(ValueError, match="gamma and beta must both be given, or neither"):
        problem.public(backend=None if MISSING else backend)


@pytest.mark.parametrize("first", ["float64", "meta"])
def test_without_grn_no_default_of_an_earlier_call_sticks(first):
    _, problem = arguments()
    problem.tensors["gamma"] = problem.tensors["beta"] = None
    with torch.inference_mode():
        want = problem.public()
        for _ in range(2):
            torch.set_default_dtype(torch.float64 if first == "float64" else torch.float32)
            try:
                with torch.device("meta") if first == "meta" else contextlib.nullcontext():
                    assert torch.equal(problem.public(), want)
            finally:
                torch.set_default_dtype(torch.float32)
            assert torch.equal(problem.public(), want)


@fused
def test_a_parameter_that_no_longer_fits_is_named():
    """Also when a packed copy of the others is held."""
    _, problem = arguments()
    with torch.inference_mode():
        problem.public()
        problem.tensors["b1"] = torch.randn(7)
        with pytest.raises(cf.errors.UnsupportedInputError, match=r"b1, gamma and beta of K elements.* b1 \(7,\)"):
            problem.public()


def test_a_half_that_was_registered_anew_is_not_passed_by(monkeypatch):
    tensors, problem = arguments()
    reference = dispatch.implementations("mlp_grn")[-1]
    mine = dispatch.Implementation("cpu", lambda call: reference.run(call) + 1, lambda spec: [])
    with torch.inference_mode():
        before = problem.public()
        monkeypatch.setitem(dispatch._registry, "mlp_grn", (mine, reference))
        torch.testing.assert_close(problem.public(), before + 1, rtol=1e-4, atol=1e-4)
        assert explained(tensors).chosen == "composed"


def test_drop_path_is_drawn_from_what_the_mlp_reads():
    _, problem = arguments()
    seen = []

    def row_scale(u):
        seen.append(u)
        return u.new_tensor([0.0, 2.0])

    with torch.inference_mode():
        plain, dropped = problem.public(), problem.public(row_scale=row_scale)
    x = problem.tensors["x"]
    assert len(seen) == 1 and seen[0].shape == x.shape
    torch.testing.assert_close(dropped[0], x[0])
    torch.testing.assert_close(dropped[1], x[1] + 2 * (plain - x)[1], rtol=1e-4, atol=1e-4)


@fused
def test_parameters_in_another_16_bit_dtype_run_in_one_operator():
    _, problem = arguments()
    problem.tensors = {name: t if name == "x" else t.bfloat16() for name, t in problem.tensors.items()}
    with torch.inference_mode():
        got = problem.public()
    want = problem.to(torch.float64, False).reference()
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)
