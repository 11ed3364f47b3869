"""What a result depends on, on a CPU: not on the number of threads, and not on the rest of the batch."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from convnextv2_fast import ops
from convnextv2_fast.ops._shared.sums import row_sums
from convnextv2_fast.testing import ALL_OPS, kinds, make
from tests.native.isas import needs_library

pytestmark = [pytest.mark.cpu_kernel, needs_library]
CASES = [(op, kind) for op in ALL_OPS for kind in kinds(op)]


def by_threads(function: Callable[[], list[Tensor]]) -> None:
    """Fails unless the function's results have the same bits with 1, 2, 3 and 4 threads."""
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 4):
            torch.set_num_threads(count)
            found.append(function())
    finally:
        torch.set_num_threads(threads)
    for result in found[1:]:
        assert [torch.equal(one, other) for one, other in zip(result, found[0], strict=True)] == [True] * len(result)


def result_and_gradients(y: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return [y.detach(), *torch.autograd.grad(y, inputs, dy)]


@pytest.mark.parametrize("shape", [(1, 56, 40, 24), (3, 14, 13, 40)], ids=str)
@pytest.mark.parametrize(("op", "kind"), CASES)
def test_threads(op, kind, shape):
    problem = make(op, *shape, kind).to(torch.float32)
    backend = "auto" if op == "block" else "cpu"
    by_threads(lambda: result_and_gradients(problem.public(backend=backend), list(problem.tensors.values())))


@pytest.mark.parametrize(("size", "k"), [(56, 2), (112, 4)])
def test_threads_of_a_stem(size, k):
    """An image without a gradient, a weight without a bias."""
    torch.manual_seed(0)
    x, weight = torch.randn(1, size, size, 3), torch.randn(40, 3, k, k, requires_grad=True)
    by_threads(lambda: result_and_gradients(ops.patch_conv(x, weight, None, backend="cpu"), [weight]))


def test_a_single_long_sum():
    """As that of one drop path factor, which torch divides among its threads."""
    x = torch.randn(1, 300_001, dtype=torch.float64)
    by_threads(lambda: [row_sums(x)])
    torch.testing.assert_close(row_sums(x), x.sum(1))
    assert row_sums(x[:, :0]).item() == 0


@pytest.mark.parametrize("shape", [(3, 7, 7, 40), (3, 28, 30, 24), (3, 2, 2, 320)], ids=str)
@pytest.mark.parametrize("op", [op for op in ALL_OPS if op != "sparse_dwconv"])
def test_a_sample_does_not_depend_on_its_batch(op, shape):
    """A dense sample alone, its result and the gradient of its activations, against the same in a batch of three."""
    problem = make(op, *shape).to(torch.float32)
    first = next(iter(problem.tensors))
    results = []
    for samples in (1, 3):
        tensors = dict(problem.tensors)
        for name in ("x", "u", "residual", "row_scale"):
            if name in tensors:
                tensors[name] = tensors[name][:samples].detach().requires_grad_()
        y = type(problem)(op, tensors, problem.options).public(backend="auto" if op == "block" else "cpu")
        dy = torch.randn(shape[0], *y.shape[1:], generator=torch.Generator().manual_seed(1))[:samples]
        results.append([y.detach()[:1], *(g[:1] for g in torch.autograd.grad(y, [tensors[first]], dy))])
    assert all(torch.equal(alone, among) for alone, among in zip(*results, strict=True))
