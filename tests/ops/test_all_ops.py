"""What holds for every op: gradcheck, every backend against the float64 reference, strides, empty inputs, autocast."""

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast import dispatch
from convnextv2_fast.testing import ALL_OPS, Problem, kinds, make

CASES = [(op, kind) for op in ALL_OPS for kind in kinds(op)]


def test_the_registry_is_complete():
    assert set(dispatch.registered_ops()) == set(ALL_OPS)
    assert set(cf.ops.__all__) == set(ALL_OPS)


@pytest.mark.parametrize(("op", "kind"), CASES)
def test_gradcheck(op, kind):
    problem = make(op, 2, 4, 3, 3, kind).to(torch.float64)
    names = list(problem.tensors)

    def function(*values):
        return Problem(op, dict(zip(names, values, strict=True)), problem.options).public(backend="torch")

    # fast_mode: one random direction in and one out, of all entries at once
    assert torch.autograd.gradcheck(function, tuple(problem.tensors.values()), atol=1e-6, fast_mode=True)


def run(problem: Problem, dtype: torch.dtype, backend: str, device: str = "cpu", seed: int = 0):
    """The output and all gradients, on the CPU again."""
    p = problem.to(dtype, device=device)
    y = p.public(backend=backend)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    y.backward(grad.to(y))
    return {"out": y.detach().cpu()} | {k: v.grad.cpu() for k, v in p.tensors.items()}


def assert_as_good_as_torch(got, plain, exact, dtype, what):
    """The rule of the library: at most twice the error of plain PyTorch in the same dtype, plus a rounding floor."""
    for name, want in exact.items():
        # With one channel LayerNorm is constant and gradients cancel: they have no scale of their own. What is left is
        # rounding times the reciprocal of the deviation, 1 / sqrt(eps); in float64 too.
        cancels = 0 < want.abs().max() < 1e-9
        scale = want.abs().max().clamp_min(1e3 if cancels else 1e-3)
        ours = ((got[name].double() - want).abs().max() / scale).item()
        theirs = ((plain[name].double() - want).abs().max() / scale).item()
        if dtype == torch.float32:  # an error of torch's below a few roundings is luck, and another CPU's is not
            theirs = max(theirs, 4 * torch.finfo(dtype).eps)
        assert ours <= 2 * theirs + 4 * torch.finfo(dtype).eps, (
            f"{what}, {name}: {ours:.2e} against torch's {theirs:.2e}"
        )


SHAPES = [(2, 7, 7, 40), (1, 14, 13, 48), (3, 1, 3, 8), (1, 3, 1, 1), (2, 5, 9, 96)]
NATIVE = [
    pytest.param(
        op, i.backend, marks=[pytest.mark.cuda] if i.backend in ("cuda", "triton") else [pytest.mark.cpu_kernel]
    )
    for op in ALL_OPS
    for i in dispatch.implementations(op)
    if i.backend not in ("torch", "composed")
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("op", "backend"), NATIVE)
def test_native_backends(op, backend, shape, dtype):
    """Every implementation but the reference, forward and every gradient, against float64."""
    device = "cpu" if backend == "cpu" else "cuda"
    n, h, w, c = shape
    if op == "patch_conv":
        h, w = max(h, 2), max(w, 2)  # k = 2 wants 2 x 2
    if op == "block":
        c = max(c, 2)  # of one channel LayerNorm makes a constant, and the MLP enlarges the noise of its gradient
    problem = make(op, n, h, w, c)
    (candidate,) = (i for i in dispatch.implementations(op) if i.backend == backend)
    first = next(iter(problem.tensors.values())).to(dtype)
    reasons = candidate.reasons(dispatch.Spec.of(op, first)._replace(device=device))
    if reasons:
        pytest.skip("; ".join(reasons))
    exact, plain = run(problem, torch.float64, "torch"), run(problem, dtype, "torch", device)
    assert_as_good_as_torch(run(problem, dtype, backend, device), plain, exact, dtype, backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("op", "kind"), CASES)
def test_dtypes(op, kind, dtype):
    """The automatic choice, in every dtype and layout, stays within that dtype's rounding of float64."""
    problem = make(op, 2, 6, 5, 24, kind)
    exact, got = run(problem, torch.float64, "torch"), run(problem, dtype, "auto")
    for name, want in exact.items():
        assert got[name].dtype == dtype
        error = (got[name].double() - want).norm() / want.norm().clamp_min(1e-30)
        assert error <= 16 * torch.finfo(dtype).eps, f"{name}: {error:.2e}"


@pytest.mark.parametrize("op", ALL_OPS)
def test_strided_inputs(op):
    """Slices of a wider tensor and NCHW memory give what a contiguous copy gives."""
    problem = make(op, 2, 6, 6, 8).to(torch.float32, requires_grad=False)
    first = next(iter(problem.tensors))
    x = problem.tensors[first]
    want = problem.public()
    wide = torch.randn(*x.shape[:-1], x.shape[-1] + 5)
    wide[..., 2:-3] = x
    views = [wide[..., 2:-3]]
    if x.ndim == 4:
        views.append(x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1))
    for view in views:
        assert not view.is_contiguous()
        got = Problem(op, dict(problem.tensors, **{first: view}), problem.options).public()
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def strided_gradient(op: str, dtype: torch.dtype, backend: str) -> None:
    """A gradient in another memory order, as a transposition after the op sends it, counts like a contiguous one."""
    results = []
    for arrange in (torch.Tensor.contiguous, lambda g: g.t().contiguous().t()):
        problem = make(op, 2, 6, 6, 8, "rows").to(dtype)
        y = problem.public(backend=backend).flatten(0, -2)
        y.backward(arrange(torch.linspace(-1, 1, y.numel()).to(y).view_as(y)))
        results.append([t.grad for t in problem.tensors.values()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op", ALL_OPS)
def test_strided_gradients(op):
    strided_gradient(op, torch.float32, "auto")


def backward_under_autocast(op: str, backend: str) -> None:
    """A backward inside a region of autocast, of a forward outside it, stays in the forward's types."""
    results = []
    for enabled in (False, True):
        problem = make(op, 2, 6, 6, 16).to(torch.float32)
        y = problem.public(backend=backend)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            y.backward(torch.linspace(-1, 1, y.numel()).view_as(y))
        results.append([t.grad for t in problem.tensors.values()])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("op", ALL_OPS)
def test_empty_batch(op):
    problem = make(op, 0, 6, 6, 8).to(torch.float32)
    y = problem.public()
    assert y.numel() == 0
    y.sum().backward()
    for name, tensor in problem.tensors.items():
        assert tensor.grad is not None and not tensor.grad.any(), name


@pytest.mark.parametrize("op", ALL_OPS)
def test_every_input_gets_a_gradient(op):
    problem = make(op, 2, 6, 6, 8).to(torch.float32)
    problem.public().square().sum().backward()
    for name, tensor in problem.tensors.items():
        assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.any(), name


@pytest.mark.parametrize("op", ["dwconv_layer_norm", "mlp_grn", "patch_conv", "sparse_dwconv"])
def test_autocast(op):
    """Activations go to the autocast dtype once, parameters stay float32, gradients come back in float32."""
    problem = make(op, 2, 6, 6, 16).to(torch.float32)
    exact = run(make(op, 2, 6, 6, 16), torch.float64, "torch")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = problem.public()
    assert y.dtype == (torch.float32 if op == "mlp_grn" else torch.bfloat16)  # mlp_grn: the residual's dtype
    assert ((y.double() - exact["out"]).norm() / exact["out"].norm()) < 0.02
    y.float().sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in problem.tensors.values())


@pytest.mark.parametrize("op", ["grn", "layer_norm"])
def test_autocast_keeps_the_dtype_of_norms(op):
    problem = make(op, 2, 6, 6, 16).to(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert problem.public().dtype == torch.float32


@pytest.mark.parametrize("op", ALL_OPS)
def test_compile_fullgraph(op):
    """torch.compile traces the public function without a graph break; gradients are those of eager."""
    problem = make(op, 2, 6, 6, 8).to(torch.float32)
    compiled = torch.compile(lambda p: p.public(), fullgraph=True, backend="aot_eager")
    want = run(problem, torch.float32, "auto")
    y = compiled(problem)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float())
    torch.testing.assert_close(y, want["out"], rtol=1e-5, atol=1e-5)
    for name, tensor in problem.tensors.items():
        torch.testing.assert_close(tensor.grad, want[name], rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()


@pytest.mark.parametrize(("op", "kind"), [(op, kind) for op in ALL_OPS for kind in kinds(op)])
def test_compile_for_any_size(op, kind):
    """Sizes, the layout's too, are symbols: no graph break, same values."""
    problem = make(op, 2, 6, 5, 8, kind).to(torch.float32, requires_grad=False)
    compiled = torch.compile(lambda p: p.public(), fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(problem), problem.public())
    torch._dynamo.reset()


def test_large_values_stay_finite_in_half():
    """Statistics in float32: what overflows the squares of float16 elsewhere does not here."""
    x = torch.full((1, 8, 8, 32), 200.0, dtype=torch.float16)
    one = torch.ones(32, dtype=torch.float16)
    assert cf.ops.grn(x, one, one).isfinite().all()
    assert cf.ops.layer_norm(x * torch.linspace(1, 2, 32, dtype=torch.float16), one, one).isfinite().all()


def test_what_lies_on_another_device_is_named():
    problem = make("mlp_grn", 1, 2, 2, 8).to(torch.float32)
    for name in ("residual", "row_scale"):
        moved = Problem(problem.op, dict(problem.tensors, **{name: problem.tensors[name].to("meta")}), problem.options)
        with pytest.raises(cf.UnsupportedInputError, match=f"mlp_grn: {name} is on meta, u on cpu; move them together"):
            moved.public()
