"""Every op on interpreted Triton kernels: forward and every gradient against float64, all layouts, odd shapes."""

import dataclasses
from contextlib import ExitStack, contextmanager

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast import dispatch
from convnextv2_fast.ops._triton import chip, tiles
from convnextv2_fast.ops._triton.launch import intercept
from convnextv2_fast.testing import KERNEL_OPS, Problem, kinds, make
from tests.ops.test_all_ops import assert_as_good_as_torch, run, strided_gradient
from tools.kernels.variants import persistent

F32, F16 = torch.float32, torch.float16  # the interpreter multiplies bfloat16 matrices wrongly
OPS = [op for op in KERNEL_OPS if any(i.backend == "triton" for i in dispatch.implementations(op))]
SHAPES = [(2, 5, 4, 24), (2, 3, 6, 40), (1, 3, 3, 1), (5, 1, 1, 7)]
# Small chips: a last-level cache that holds two groups of the problem below, and one on which backward keeps h and dg.
SMALL = dataclasses.replace(chip.KNOWN["sm_90"], l2=3 * 2 * 35 * 160 * 4)
KEEPING = dataclasses.replace(chip.KNOWN["sm_90"], bandwidth=1e18)


def test_all_ops_have_a_triton_implementation():
    assert list(KERNEL_OPS) == OPS


@contextmanager
def seen():
    """Runs kernels as usual; the options of each, by name."""
    found = {}

    def hook(kernel, grid, args, options):
        found[kernel.__name__] = options
        kernel[grid](*args, **options)

    with intercept(hook):
        yield found


def judge(problem: Problem, dtype: torch.dtype, **extra) -> None:
    exact, plain = run(problem, torch.float64, "torch"), run(problem, dtype, "torch")
    leaf = problem.to(dtype)
    y = leaf.public(backend="triton", **extra)
    assert y.dtype == plain["out"].dtype and y.shape == exact["out"].shape
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y.backward(grad.to(y))
    got = {"out": y.detach()} | {k: v.grad for k, v in leaf.tensors.items()}
    assert all(got[k].dtype == plain[k].dtype for k in got)
    assert_as_good_as_torch(got, plain, exact, dtype, "triton")
    with torch.no_grad():  # the path without gradients gives the same bits
        assert torch.equal(problem.to(dtype, requires_grad=False).public(backend="triton", **extra), y)


@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("op", "kind"), [(op, kind) for op in OPS for kind in kinds(op)])
def test_against_float64(op, kind, shape, dtype):
    if op == "patch_conv" and min(shape[1:3]) < 2 and kind in ("dense", "rows"):
        pytest.skip("a plane smaller than the kernel has no output")
    judge(make(op, *shape, kind), dtype)


@pytest.mark.parametrize("c", [96, 352])
@pytest.mark.parametrize("op", OPS)
def test_widths(op, c):
    judge(make(op, 1, 3, 4, c), F16)


@pytest.mark.parametrize("op", OPS)
def test_float32_parameters_beside_float16_activations(op):
    problem = make(op, 2, 3, 4, 24)
    exact = run(problem, torch.float64, "torch")
    plain = run(problem, F16, "torch")
    mixed = problem.to(F16, param_dtype=F32)
    y = mixed.public(backend="triton")
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y.backward(grad.to(y))
    got = {"out": y.detach()} | {k: v.grad for k, v in mixed.tensors.items()}
    assert_as_good_as_torch(got, plain, exact, F16, "triton")


@pytest.mark.parametrize("op", OPS)
def test_empty_batch(op):
    problem = make(op, 0, 6, 6, 8).to(F32)
    y = problem.public(backend="triton")
    assert y.numel() == 0
    y.sum().backward()
    for name, tensor in problem.tensors.items():
        assert tensor.grad is not None and not tensor.grad.any(), name


@pytest.mark.parametrize("op", OPS)
def test_strided_inputs(op):
    problem = make(op, 2, 6, 6, 8).to(F32, requires_grad=False)
    first = next(iter(problem.tensors))
    x = problem.tensors[first]
    want = problem.public(backend="triton")
    wide = torch.randn(*x.shape[:-1], x.shape[-1] + 5)
    wide[..., 2:-3] = x
    got = Problem(op, dict(problem.tensors, **{first: wide[..., 2:-3]}), problem.options).public(backend="triton")
    assert torch.equal(got, want)


@pytest.mark.parametrize("op", OPS)
def test_strided_gradients(op):
    strided_gradient(op, F32, "triton")


@pytest.mark.parametrize("op", OPS)
def test_compile_fullgraph(op):
    """torch.compile traces the public function on the Triton backend without a graph break."""
    problem = make(op, 1, 4, 4, 8).to(F32)
    want = run(make(op, 1, 4, 4, 8), F32, "triton")
    y = torch.compile(lambda p: p.public(backend="triton"), fullgraph=True, backend="aot_eager")(problem)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float())
    torch.testing.assert_close(y, want["out"], rtol=0, atol=0)
    for name, tensor in problem.tensors.items():
        torch.testing.assert_close(tensor.grad, want[name], rtol=1e-6, atol=1e-6)
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
@pytest.mark.parametrize("kind", kinds("mlp_grn"))
@pytest.mark.parametrize(
    ("strategy", "assumed"),
    [("materialize", KEEPING), ("recompute", SMALL), ("chunked", SMALL)],
    ids=["materialize", "recompute", "chunked"],
)
def test_strategies(strategy, assumed, kind, dtype):
    if strategy == "chunked" and kind in ("ragged", "site"):
        pytest.skip("chunked takes groups of equal size")
    with chip.assume(assumed):
        judge(make("mlp_grn", 5, 7, 5, 40, kind), dtype, strategy=strategy)


@pytest.mark.parametrize("kind", kinds("mlp_grn"))
@pytest.mark.parametrize("strategy", ["materialize", "recompute"])
def test_persistent_variants(strategy, kind):
    """Operands by TMA, and few programs of many tiles each."""
    with chip.assume(dataclasses.replace(SMALL, processors=2)), persistent(SMALL, 40, F16), seen() as kernels:
        judge(make("mlp_grn", 5, 7, 5, 40, kind), F16, strategy=strategy)
    assert all(options["TMA"] for options in kernels.values() if "TMA" in options) and len(kernels) > 3


def test_what_tma_cannot_read_goes_by_pointers():
    with persistent(SMALL, 40, F16), seen() as kernels:
        judge(make("mlp_grn", 2, 3, 4, 41), F16, strategy="materialize")  # rows of 82 bytes
    assert not any(options.get("TMA") for options in kernels.values())


@pytest.mark.parametrize(
    ("h", "processors"), [(1, 1), (3, 1), (17, 1), (1, 132), (2, 132), (4, 132), (8, 132), (17, 132)]
)
@pytest.mark.parametrize("op", ["dwconv_layer_norm", "sparse_dwconv"])
def test_sweeps_of_any_length(op, h, processors):
    """Whole columns of the plane where there are programs enough, parts of them else."""
    kind = "rows" if op == "sparse_dwconv" else "dense"
    with chip.assume(dataclasses.replace(SMALL, processors=processors)):
        judge(make(op, 2, h, 5, 9, kind), F16)


@pytest.mark.parametrize("columns", [1, 2, 8])
def test_strips_of_any_width(columns):
    with ExitStack() as stack:
        for kernel, channels in (("plain", 16), ("norm", 0), ("train", 0), ("params", 16)):
            stack.enter_context(tiles.force(f"dwconv {kernel}", (columns, channels)))
        judge(make("dwconv_layer_norm", 1, 4, 10, 20), F16)


def test_wide_layers_are_normalised_apart():
    judge(make("dwconv_layer_norm", 1, 3, 4, 520), F16)


def test_strategies_that_cannot_run_say_so():
    wide = make("mlp_grn", 1, 2, 2, 392).to(F32, requires_grad=False)
    with pytest.raises(cf.UnsupportedInputError, match=r"'recompute' takes C = C' up to .* got 392 and 392"):
        wide.public(backend="triton", strategy="recompute")
    ragged = make("mlp_grn", 2, 4, 4, 8, "ragged").to(F32, requires_grad=False)
    with pytest.raises(cf.UnsupportedInputError, match=r"'chunked' takes groups of equal size"):
        ragged.public(backend="triton", strategy="chunked")


def test_one_group_for_the_whole_batch():
    """The sparse encoder's grn_scope="batch": a group of many row tiles."""
    problem = make("mlp_grn", 3, 9, 11, 16, "rows")
    problem.options["rows_per_group"] = 3 * 9 * 11
    judge(problem, F32)


def test_explain_prints_the_cost_model():
    problem = make("mlp_grn", 1, 2, 2, 96).to(F16)
    text = str(cf.explain("mlp_grn", *list(problem.tensors.values())[:7], backend="triton"))
    assert "runs on: triton" in text and "H100: 3.35 TB/s" in text
    assert "materialize" in text and "recompute" in text and "chunked" in text and "is chosen" in text
