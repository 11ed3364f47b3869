"""The GELU of the Triton kernels, over every number that half precision has, and over the range of float32. As PTX it
is compared with this one on a GPU, by `tests/test_cuda.py`."""

import pytest
import torch
import triton
import triton.language as tl

from convnextv2_fast.ops._triton.activation import gelu, gelu_and_grad


@triton.jit
def _both(x_ptr, y_ptr, slope_ptr, again_ptr, n, FAST: tl.constexpr, PTX: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    y, slope = gelu_and_grad(x, FAST, PTX)
    tl.store(y_ptr + at, y, mask=at < n)
    tl.store(slope_ptr + at, slope, mask=at < n)
    tl.store(again_ptr + at, gelu(x, FAST, PTX), mask=at < n)


def evaluate(x, fast, ptx=False):
    y, slope, again = (torch.empty(x.shape, dtype=torch.float32, device=x.device) for _ in range(3))
    step = 1024 if x.is_cuda else x.numel()
    for parts in zip(*(t.split(step) for t in (x, y, slope, again)), strict=True):
        n = parts[0].numel()
        _both[(1,)](*parts, n, FAST=fast, PTX=ptx, BLOCK=triton.next_power_of_2(n))
    assert torch.equal(y.nan_to_num(), again.nan_to_num())
    return y.double(), slope.double()


def exactly(x):
    """gelu and its derivative in float64; the left tail by erfc, without cancellation."""
    x = x.double()
    phi = 0.5 * torch.special.erfc(-x / 2**0.5)
    return x * phi, phi + x * torch.exp(-x * x / 2) / (2 * torch.pi) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_error_is_below_the_rounding_of_half_precision_everywhere(dtype):
    """All finite numbers of the dtype: relative error below a quarter of its eps, to the end of float32's range."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = every[every.isfinite()]
    (y, slope), (want, want_slope) = evaluate(x, True), exactly(x)
    assert y.isfinite().all() and slope.isfinite().all()
    normal = want.abs() > 2e-38
    error = ((y - want).abs() / want.abs())[normal].max().item()
    assert error <= torch.finfo(dtype).eps / 4, error
    assert (y - want)[~normal].abs().max() <= 2e-38
    # the slope crosses zero: absolute there
    assert ((slope - want_slope).abs() / want_slope.abs().clamp_min(0.1)).max() <= torch.finfo(dtype).eps / 4


@pytest.mark.parametrize("fast", [False, True])
def test_infinities_and_nan_are_those_of_torchs_float64(fast):
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, 3e38, -3e38, 0.0, -0.0])
    y, _ = evaluate(x, fast)
    assert torch.equal(y.nan_to_num(nan=7), torch.nn.functional.gelu(x.double()).nan_to_num(nan=7))


def test_float32_is_as_good_as_torch():
    x = torch.cat((torch.linspace(-14, 14, 200_001), torch.logspace(-30, 30, 20_001), -torch.logspace(-30, 30, 20_001)))
    (y, slope), (want, want_slope) = evaluate(x, False), exactly(x)
    theirs = (torch.nn.functional.gelu(x).double() - want).abs()
    assert ((y - want).abs() <= 2 * theirs.max().clamp_min(1e-7) + 4e-7 * want.abs()).all()
    assert (slope - want_slope).abs().max() <= 1e-6
