"""Every op on the emulated CUDA kernels: forward and every gradient against float64, all layouts, odd shapes."""

import pytest
import torch

from convnextv2_fast import dispatch
from convnextv2_fast.testing import ALL_OPS, Problem, kinds, make
from tests.ops.test_all_ops import assert_as_good_as_torch, backward_under_autocast, run, strided_gradient

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
OPS = [op for op in ALL_OPS if any(i.backend == "cuda" for i in dispatch.implementations(op))]
SHAPES = [(2, 5, 4, 24), (3, 7, 5, 40), (1, 3, 3, 1), (5, 1, 1, 7), (1, 14, 13, 48)]


def judge(problem: Problem, dtype: torch.dtype, param_dtype: torch.dtype | None = None, **extra) -> None:
    """Forward and all gradients at most twice as far from float64 as plain PyTorch; the same bits without gradients."""
    exact, plain = run(problem, torch.float64, "torch"), run(problem, dtype, "torch")
    leaf = problem.to(dtype, param_dtype=param_dtype)
    y = leaf.public(backend="cuda", **extra)
    assert y.dtype == plain["out"].dtype and y.shape == exact["out"].shape
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y.backward(grad.to(y))
    got = {"out": y.detach()} | {k: v.grad for k, v in leaf.tensors.items()}
    assert all(got[k].dtype == leaf.tensors[k].dtype for k in leaf.tensors)
    if "row_scale" in exact:  # few numbers, each a long sum that cancels: whose error is smaller is luck
        want = exact.pop("row_scale")
        assert (got["row_scale"].double() - want).norm() <= 16 * torch.finfo(dtype).eps * want.norm()
    assert_as_good_as_torch(got, plain, exact, dtype, "cuda")
    with torch.no_grad():  # the path without gradients gives the same bits
        again = problem.to(dtype, requires_grad=False, param_dtype=param_dtype).public(backend="cuda", **extra)
        assert torch.equal(again, y)


@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("op", "kind"), [(op, kind) for op in OPS for kind in kinds(op)])
def test_against_float64(op, kind, shape, dtype):
    if op == "patch_conv" and min(shape[1:3]) < 2 and kind in ("dense", "rows"):
        pytest.skip("a plane smaller than the kernel has no output")
    judge(make(op, *shape, kind), dtype)


@pytest.mark.parametrize("c", [96, 352])
@pytest.mark.parametrize("op", OPS)
def test_widths(op, c):
    judge(make(op, 1, 3, 4, c), BF16)


@pytest.mark.parametrize("op", OPS)
def test_float32_parameters_beside_half_activations(op):
    judge(make(op, 2, 3, 4, 24), BF16, param_dtype=F32)


@pytest.mark.parametrize("op", OPS)
def test_empty_batch(op):
    problem = make(op, 0, 6, 6, 8).to(F32)
    y = problem.public(backend="cuda")
    assert y.numel() == 0
    y.sum().backward()
    for name, tensor in problem.tensors.items():
        assert tensor.grad is not None and not tensor.grad.any(), name


@pytest.mark.parametrize("op", OPS)
def test_strided_and_unaligned_inputs(op):
    """Slices of a wider tensor, and memory that starts off every vector's alignment, give the same bits."""
    problem = make(op, 2, 6, 6, 8).to(F16, requires_grad=False)
    first = next(iter(problem.tensors))
    x = problem.tensors[first]
    want = problem.public(backend="cuda")
    wide = torch.randn(*x.shape[:-1], x.shape[-1] + 5, dtype=F16)
    wide[..., 2:-3] = x
    unaligned = torch.empty(x.numel() + 1, dtype=F16)[1:].view(x.shape).copy_(x)
    for view in (wide[..., 2:-3], unaligned):
        got = Problem(op, dict(problem.tensors, **{first: view}), problem.options).public(backend="cuda")
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("op", OPS)
def test_the_same_bits_again(op):
    problem = make(op, 3, 7, 7, 40)
    first, second = (run(problem, BF16, "cuda") for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("op", OPS)
def test_strided_gradients(op):
    strided_gradient(op, F32, "cuda")


@pytest.mark.parametrize("op", OPS)
def test_backward_under_autocast(op):
    backward_under_autocast(op, "cuda")


@pytest.mark.parametrize("op", OPS)
def test_compile_fullgraph(op):
    """torch.compile traces the public function on the CUDA backend without a graph break."""
    problem = make(op, 1, 4, 4, 8).to(F32)
    want = run(make(op, 1, 4, 4, 8), F32, "cuda")
    y = torch.compile(lambda p: p.public(backend="cuda"), fullgraph=True, backend="aot_eager")(problem)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float())
    torch.testing.assert_close(y, want["out"], rtol=1e-6, atol=1e-6)
    for name, tensor in problem.tensors.items():
        torch.testing.assert_close(tensor.grad, want[name], rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize(("op", "kind"), [(op, kind) for op in OPS for kind in kinds(op)])
def test_compile_for_any_size(op, kind):
    problem = make(op, 2, 6, 5, 8, kind).to(F32, requires_grad=False)
    compiled = torch.compile(lambda p: p.public(backend="cuda"), fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(problem), problem.public(backend="cuda"))
    torch._dynamo.reset()
