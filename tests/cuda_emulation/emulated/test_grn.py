"""The CUDA kernels of grn and mlp_grn, emulated: groups of all kinds, both ways of the scale, GELU over its range."""

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast.ops._mlp_grn import cuda as mlp_grn
from convnextv2_fast.testing import make
from tests.cuda_emulation.emulated.test_ops import BF16, F16, F32, judge

COUNTS = [[5, 0, 1, 30, 0], [0, 0, 36], [36]]


@pytest.mark.parametrize("name", ["H100", "tiny"])
@pytest.mark.parametrize("c", [1, 7, 8, 40, 257, 1408])
@pytest.mark.parametrize("op", ["grn", "mlp_grn"])
def test_widths(op, c, name, device):
    device(name)
    judge(make(op, 2, 5, 7, c if op == "grn" else max(1, c // 4)), BF16)


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("op", ["grn", "mlp_grn"])
def test_ragged_and_empty_groups(op, counts):
    problem = make(op, 1, 6, 6, 24, "rows")
    problem.options["rows_per_group"] = torch.tensor(counts)
    judge(problem, F32)


@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
@pytest.mark.parametrize("op", ["grn", "mlp_grn"])
def test_one_group_over_the_batch(op, dtype):
    """The sparse encoder's grn_scope="batch": many blocks share a group."""
    problem = make(op, 3, 29, 31, 8, "rows")
    problem.options["rows_per_group"] = 3 * 29 * 31
    judge(problem, dtype)


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
def test_both_ways_of_the_scale(fold, dtype, monkeypatch):
    monkeypatch.setattr(mlp_grn, "folds", lambda *_: fold)
    judge(make("mlp_grn", 3, 5, 6, 24), dtype)


def test_the_rule_of_the_scale():
    """Copies of the weight where they are smaller than the activations: the early stages, groups of one size."""
    assert mlp_grn.folds(56 * 56, 96) and mlp_grn.folds(28 * 28, 192)
    assert not mlp_grn.folds(14 * 14, 384) and not mlp_grn.folds(7 * 7, 768) and not mlp_grn.folds(0, 8)


def test_norms_beyond_half_precision():
    """A thousand rows of 200: the sum of squares is 4e7, float16 ends at 65504."""
    problem = make("grn", 1, 32, 32, 8)
    problem.tensors["x"] = torch.full_like(problem.tensors["x"], 200.0) + problem.tensors["x"]
    judge(problem, F16)


def test_zero_norm_has_zero_subgradient():
    x = torch.zeros(2, 3, 3, 4, requires_grad=True)
    y = cf.ops.grn(x, torch.ones(4), torch.ones(4), backend="cuda")
    y.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
def test_gelu_over_its_whole_range(dtype):
    """Half precision is right to its rounding, in the far left tail too; float32 to erf's."""
    x = torch.cat((torch.linspace(-13, 13, 8000), torch.logspace(-20, 4, 192), -torch.logspace(-20, 1, 192)))
    h = x.to(dtype).view(-1, 8)
    zero, one = torch.zeros(8), torch.ones(8)
    got = mlp_grn._activate(h, zero, one, 1e-6, h.shape[0], 1, None, None)[0].double()
    want = h.double() * torch.erfc(h.double() * -(0.5**0.5)) / 2
    eps = torch.finfo(dtype).eps
    if dtype == F32:
        assert ((got - want).abs() <= 2 * eps * (want.abs() + h.double().abs() * 0.5)).all()
    else:
        floor = torch.finfo(dtype).smallest_normal * (eps if dtype == F16 else 16)  # what float32 no longer holds
        assert ((got - want).abs() <= 0.55 * eps * want.abs() + floor).all()


def every_value(dtype: torch.dtype) -> torch.Tensor:
    """Of a type of 16 bits, as rows of 8."""
    return torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype).view(-1, 8)


def phi(x: torch.Tensor) -> torch.Tensor:
    return torch.erfc(x * -(0.5**0.5)) / 2


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_gelu_of_every_value(dtype):
    """Little beyond the rounding of the result, for numbers whose square overflows too; zeros keep their sign."""
    x, zero = every_value(dtype), torch.full((8,), -0.0)  # added to -0 it leaves -0
    got = mlp_grn._activate(x, zero, torch.ones(8), 1e-6, x.shape[0], 1, None, None)[0]
    assert torch.equal(got.isnan(), x.isnan())
    infinite = x.isinf()
    assert torch.equal(got[infinite], torch.where(x > 0, x, -0.0)[infinite])  # the limits
    kept = x.isfinite()
    x, got = x[kept], got[kept]
    assert torch.equal(got.signbit(), x.signbit())
    want, eps = x.double() * phi(x.double()), torch.finfo(dtype).eps
    floor = torch.finfo(dtype).smallest_normal * (eps / 2 if dtype == F16 else 4)  # exp's own end
    assert ((got.double() - want).abs() <= 0.52 * eps * want.abs() + floor).all()


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_the_slope_at_every_value(dtype):
    """With gamma = 0 the gradient of h is the slope times that of GRN's output, which is the activation, the bits of
    the forward."""
    x = every_value(dtype)
    x = torch.where(x.abs() < 1e30, x, 0)  # of a sum over the rows there is no overflow
    zero, groups = torch.zeros(8), (x.shape[0], 1, None, None)
    stored, norm, _ = mlp_grn._activate(x, zero, zero, 1e-6, *groups)
    dh, g, *_ = mlp_grn._backward(torch.ones_like(x), x, zero, zero, zero, norm.clamp(max=1.0), 1e-6, *groups)
    assert torch.equal(g, stored)
    z, eps = x.double(), torch.finfo(dtype).eps
    part = z * torch.exp(z * z / -2) / (2 * torch.pi) ** 0.5
    want, before_cancelling = phi(z) + part, phi(z) + part.abs()
    floor = torch.finfo(dtype).smallest_normal * (eps / 2 if dtype == F16 else 4)
    assert ((dh.double() - want).abs() <= 0.5 * eps * want.abs() + 2**-14 * before_cancelling + floor).all()


@pytest.mark.parametrize("strategy", ["recompute", "chunked"])
def test_other_strategies_are_refused(strategy):
    problem = make("mlp_grn", 1, 2, 2, 8).to(F32)
    with pytest.raises(cf.UnsupportedInputError, match=f"'materialize' only, not '{strategy}'"):
        problem.public(backend="cuda", strategy=strategy)
