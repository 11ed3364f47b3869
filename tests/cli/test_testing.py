"""`convnextv2_fast.testing`: the rule by which results are judged, and its problems."""

import math

import pytest
import torch
from torch import nn

from convnextv2_fast import testing
from convnextv2_fast.layouts import PatchLayout


def test_relative_error():
    want = torch.tensor([0.0, -4.0], dtype=torch.float64)
    assert testing.relative_error(torch.tensor([1.0, -4.0]), want) == 0.25
    assert testing.relative_error(torch.tensor([1e-3]), torch.zeros(1)) == pytest.approx(1.0)
    assert testing.relative_error(torch.zeros(0), torch.zeros(0)) == 0
    assert math.isnan(testing.relative_error(torch.tensor([float("nan"), 0]), want))


def test_gradient_error_counts_every_parameter_alike():
    want = {"large": torch.full((4,), 1e6), "small": torch.full((2,), 1e-6)}
    got = {"large": want["large"], "small": torch.zeros(2)}
    assert testing.gradient_error(want, want) == 0
    assert testing.gradient_error(got, want) == pytest.approx(0.5**0.5)


def test_tolerance():
    assert testing.tolerance(1e-3, torch.float32) == pytest.approx(2e-3 + 4 * 2**-23)


def test_dtypes_of_a_problem():
    problem = testing.make("mlp_grn", 2, 3, 3, 4).to(torch.bfloat16, param_dtype=torch.float32)
    low = {name for name, t in problem.tensors.items() if t.dtype == torch.bfloat16}
    assert low == {"u", "residual", "row_scale"}
    assert problem.spec().param_dtype == torch.float32 and problem.spec().needs_grad


@pytest.mark.parametrize("kind", ["patch", "ragged", "site"])
def test_a_problem_moves_with_its_layout(kind):
    options = testing.make("sparse_dwconv", 2, 4, 4, 3, kind).to(torch.float32, device="meta").options
    assert options["layout"].index.device.type == "meta" and options["layout"].kind == (
        "site" if kind == "site" else "patch"
    )
    if kind == "ragged":
        assert isinstance(options["layout"], PatchLayout) and options["layout"].counts.device.type == "meta"


def test_every_kind_has_a_problem_for_every_op():
    for op in testing.ALL_OPS:
        for kind in testing.kinds(op):
            problem = testing.make(op, 1, 4, 4, 3, kind)
            assert problem.reference().isfinite().all(), (op, kind)
    with pytest.raises(KeyError, match="no problem for the op 'conv'"):
        testing.make("conv", 1, 4, 4, 3)


def test_randomise_leaves_no_parameter_at_its_initial_constant():
    norm = testing.randomise(nn.LayerNorm(8).to(torch.bfloat16))
    assert norm.bias.all() and (norm.weight != 1).any() and norm.weight.dtype == torch.bfloat16
