"""Subnormal numbers: zeros in every kernel, forward and backward; not in the caller's own arithmetic afterwards."""

import pytest
import torch
from torch import Tensor

from convnextv2_fast import ops
from convnextv2_fast.testing import ALL_OPS, KERNEL_OPS, Problem, kinds, make
from tests.native.cxx import ROOT
from tests.native.isas import needs_library

pytestmark = [pytest.mark.cpu_kernel, needs_library]
LEAST = torch.finfo(torch.float32).tiny
CASES = [(op, kind) for op in ALL_OPS for kind in kinds(op)]


def keeps_subnormals() -> bool:
    """Whether this thread's arithmetic does."""
    return bool((torch.tensor([LEAST]) * 0.5 != 0).item())


def subnormal(t: Tensor) -> Tensor:
    return (t != 0) & (t.abs() < LEAST)


def results(problem: Problem, dy_scale: float = 1.0, backend: str = "") -> dict[str, Tensor]:
    problem = problem.to(torch.float32)
    y = problem.public(backend=backend or ("auto" if problem.op == "block" else "cpu"))
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)) * dy_scale
    grads = torch.autograd.grad(y, list(problem.tensors.values()), dy)
    return {"y": y.detach(), **dict(zip(problem.tensors, grads, strict=True))}


@pytest.mark.parametrize(("op", "kind"), CASES)
def test_operands(isa, op, kind):
    """Inputs and parameters of which half are subnormal give the bits of those with zeros in their place."""
    problem = make(op, 1, 6, 7, 10, kind)
    g = torch.Generator().manual_seed(0)
    for name, t in problem.tensors.items():
        if name == "layer_scale":
            continue  # torch multiplies w2 and its gradient by it, where a gradient is wanted
        small = torch.rand(t.shape, generator=g) < 0.5
        problem.tensors[name] = torch.where(small, t * 1e-40, t)
    zeroed = Problem(op, {k: t * (t.abs() > 1e-37) for k, t in problem.tensors.items()}, problem.options)
    assert keeps_subnormals()
    got = results(problem)
    assert keeps_subnormals()
    for name, want in results(zeroed).items():
        assert torch.equal(got[name], want), name


@pytest.mark.parametrize("op", KERNEL_OPS)
def test_results(isa, op):
    """Gradients that are subnormal in plain PyTorch are zero here, and none is subnormal."""
    problem = make(op, 1, 6, 7, 10, kinds(op)[0])
    got, plain = results(problem, 1e-38), results(problem, 1e-38, "torch")
    by_torch = {"residual", "row_scale"}  # what torch computes of dy around the kernels
    assert any(subnormal(t).any() for name, t in plain.items() if name not in by_torch)
    assert not [name for name, t in got.items() if name not in by_torch and subnormal(t).any()]


@pytest.mark.parametrize("op", ["block", "mlp_grn"])
def test_packed_weights(isa, op):
    """Inference, where a block is one operator and the weights are packed once."""
    problem = make(op, 1, 6, 7, 10)
    small = {name: torch.where(torch.arange(t.numel()).view(t.shape) % 2 == 0, t * 1e-40, t)
             for name, t in problem.tensors.items()}  # fmt: skip
    zeroed = {name: t * (t.abs() > 1e-37) for name, t in small.items()}
    with torch.inference_mode():
        one, other = (Problem(op, t, problem.options).to(torch.float32, False).public() for t in (small, zeroed))
    assert torch.equal(one, other)
    assert keeps_subnormals()


def test_float16_keeps_its_subnormal_numbers(isa):
    """They are normal as float32, in which the kernels compute: all of them survive both conversions."""
    x = torch.arange(1, 1024, dtype=torch.int16).view(torch.float16).view(1, 31, 3, 11)  # a tail in every vector
    x = torch.cat([x, -x])
    zero = torch.zeros(11, dtype=torch.float16)
    assert torch.equal(ops.grn(x, zero, zero, backend="cpu"), x)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays(isa, value):
    x = torch.full((1, 2, 2, 11), value)
    zero = torch.zeros(11)
    y = ops.grn(x, zero, zero, backend="cpu")  # a norm that is not finite makes NaN
    want = ops.grn(x, zero, zero, backend="torch")
    torch.testing.assert_close(y, want, rtol=0, atol=0, equal_nan=True)


def test_every_operator_is_registered_so():
    """No file of a CPU operator registers anything past CNV2_CPU_OPERATORS."""
    files = sorted((ROOT / "csrc/torch").glob("*_cpu.cpp"))
    assert len(files) > 5
    for file in files:
        text = file.read_text()
        assert "CNV2_CPU_OPERATORS(m)" in text, file.name
        assert "TORCH_BOX" not in text and "TORCH_LIBRARY" not in text, file.name


def test_the_callers_mode_stays():
    """On or off, after a call and after an error."""
    x, v = torch.ones(4, 8), torch.ones(8)
    try:
        for flush in (True, False):
            torch.set_flush_denormal(flush)
            ops.layer_norm(x, v, v, backend="cpu")
            assert keeps_subnormals() is not flush
            with pytest.raises(ValueError, match="layer_norm_fwd: weight must be"):
                torch.ops.convnextv2_fast.layer_norm_fwd.default(x, v[:4], v, 1e-6)
            assert keeps_subnormals() is not flush
    finally:
        torch.set_flush_denormal(False)
