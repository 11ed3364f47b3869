"""Derivatives beyond one backward pass: second order, forward mode, torch.func, batched gradients. Of every op, on all
layouts, under the default choice of backend, against plain PyTorch in float64."""

import pytest
import torch
from torch.autograd import forward_ad

import convnextv2_fast as cf
from convnextv2_fast.testing import ALL_OPS, Problem, kinds, make

CASES = [(op, kind) for op in ALL_OPS for kind in kinds(op)]
SMALL = (2, 4, 3, 5)


def function_of(problem, **extra):
    """The op as a function of the problem's tensors alone."""
    names = list(problem.tensors)
    return lambda *t: Problem(problem.op, dict(zip(names, t, strict=True)), problem.options).public(**extra)


def directions(tensors, seed=3):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(t.shape, generator=g, dtype=torch.float64).to(t.dtype) for t in tensors]


def agree(got, want, names, rtol=3e-4):
    """In float32 against float64; second derivatives of LayerNorm amplify rounding."""
    for name, ours, exact in zip(names, got, want, strict=True):
        assert (ours is None) == (exact is None), name
        if exact is not None:
            assert (ours.double() - exact).norm() <= rtol * exact.norm() + 1e-6, name


def second_order(problem, wanted, **extra):
    """Gradients of `wanted`, then those of their sum along random directions, of all tensors that take part."""
    y = problem.public(**extra)
    weights = directions([y], seed=5)[0]
    inputs = [problem.tensors[name] for name in wanted]
    loss = (y * weights + y.square() * 0.3).sum()
    first = torch.autograd.grad(loss, inputs, create_graph=True)
    product = sum((g * v).sum() for g, v in zip(first, directions(inputs), strict=True))
    return first, torch.autograd.grad(product, list(problem.tensors.values()), allow_unused=True)


@pytest.mark.parametrize(("op", "kind"), CASES)
def test_second_derivatives(op, kind):
    problem = make(op, *SMALL, kind)
    names = list(problem.tensors)
    for wanted in (names, names[:1], names[1:2]):  # all, only activations, only the first parameter
        first, second = second_order(problem.to(torch.float32), wanted)
        exact_first, exact_second = second_order(problem.to(torch.float64), wanted, backend="torch")
        agree(first, exact_first, wanted)
        agree(second, exact_second, names)


@pytest.mark.parametrize(("op", "kind"), CASES)
def test_gradgradcheck(op, kind):
    problem = make(op, 1, 3, 2, 2, kind).to(torch.float64)
    values = tuple(problem.tensors.values())
    assert torch.autograd.gradgradcheck(function_of(problem), values, atol=1e-4, rtol=1e-3, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_second_derivatives_in_sixteen_bits(dtype):
    problem = make("mlp_grn", *SMALL)
    names = list(problem.tensors)
    _, got = second_order(problem.to(dtype, param_dtype=torch.float32), names)
    _, want = second_order(problem.to(torch.float64), names, backend="torch")
    agree(got, want, names, rtol=0.1)


def test_a_shared_input_counts_once():
    """u is made of the residual: what leads from one to the other is not the op's."""
    problem = make("mlp_grn", *SMALL).to(torch.float32)
    names = ("w1", "b1", "gamma", "beta", "w2", "b2")
    parameters = [problem.tensors[name] for name in names]
    x = problem.tensors["u"]

    def hessian_product(backend):
        y = cf.ops.mlp_grn(x.sin(), *parameters, residual=x, backend=backend)
        (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(g.sum(), x)[0]

    assert torch.allclose(hessian_product(None), hessian_product("torch"), rtol=1e-3, atol=1e-3)


def test_a_gradient_penalty_trains():
    problem = make("dwconv_layer_norm", *SMALL).to(torch.float32)
    x, names = problem.tensors["x"], [n for n in problem.tensors if n != "x"]
    for backend in (None, "torch"):
        y = problem.public(backend=backend)
        (g,) = torch.autograd.grad(y.sigmoid().sum(), x, create_graph=True)
        (g.square().sum() - 1).square().backward()
    # twice the same was added up
    for name in ("weight", "bias", "ln_weight"):
        assert problem.tensors[name].grad.abs().max() > 0
    assert set(names) == {"weight", "bias", "ln_weight", "ln_bias"}


def jvp(function, tensors, tangents):
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, v) for t, v in zip(tensors, tangents, strict=True)]
        return forward_ad.unpack_dual(function(*duals)).tangent


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize(("op", "kind"), CASES)
def test_forward_mode(op, kind, grad):
    problem = make(op, *SMALL, kind)
    ours, exact = problem.to(torch.float32, requires_grad=grad), problem.to(torch.float64, requires_grad=grad)
    with torch.set_grad_enabled(grad):
        values = list(ours.tensors.values())
        got = jvp(function_of(ours), values, directions(values))
        values = list(exact.tensors.values())
        agree([got], [jvp(function_of(exact, backend="torch"), values, directions(values))], [op])


@pytest.mark.parametrize("op", ALL_OPS)
def test_function_transforms(op):
    kind = kinds(op)[0]
    problem = make(op, *SMALL, kind).to(torch.float32, requires_grad=False)
    values = tuple(problem.tensors.values())
    ours, plain = function_of(problem), function_of(problem, backend="torch")
    every = tuple(range(len(values)))
    got = torch.func.grad(lambda *t: ours(*t).sin().sum(), every)(*values)
    want = torch.func.grad(lambda *t: plain(*t).sin().sum(), every)(*values)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)
    stacked = [torch.stack((v, v * 0.5, -v)) for v in values[1:]]  # an ensemble of three
    axes = (None, *(0 for _ in stacked))
    assert torch.equal(torch.vmap(ours, axes)(values[0], *stacked), torch.vmap(plain, axes)(values[0], *stacked))
    _, tangent = torch.func.jvp(ours, values, tuple(directions(values)))
    assert torch.equal(tangent, torch.func.jvp(plain, values, tuple(directions(values)))[1])


@pytest.mark.parametrize("op", ALL_OPS)
def test_batched_gradients(op):
    """`is_grads_batched`, of vectorised Jacobians: the kernels' backward, several times at once."""
    problem = make(op, *SMALL, kinds(op)[0]).to(torch.float32)
    tensors = list(problem.tensors.values())
    y = problem.public()
    batch = torch.stack(directions([y, y, y], seed=7))
    got = torch.autograd.grad(y, tensors, batch, is_grads_batched=True, retain_graph=True)
    for i in range(3):
        for ours, want in zip(got, torch.autograd.grad(y, tensors, batch[i], retain_graph=True), strict=True):
            assert torch.allclose(ours[i], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", [op for op in ALL_OPS if op != "block"])
def test_a_kernel_asked_for_by_name_is_refused(op):
    problem = make(op, *SMALL, kinds(op)[0]).to(torch.float32, requires_grad=False)
    values = tuple(problem.tensors.values())
    with pytest.raises(cf.UnsupportedInputError, match=f"{op}: backend 'cpu' .*forward-mode.*backend='auto'"):
        jvp(function_of(problem, backend="cpu"), values, directions(values))
    with cf.use_backend("cpu"), pytest.raises(cf.UnsupportedInputError, match=r"torch\.func"):
        torch.func.grad(lambda *t: function_of(problem)(*t).sum())(*values)


@pytest.mark.parametrize(("op", "kind"), CASES)
def test_saved_for_backward_are_tensors(op, kind):
    """Readers of graphs (torchviz) take the size of whatever a node has saved."""
    nodes, seen = [make(op, *SMALL, kind).to(torch.float32).public().grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for t in getattr(node, "saved_tensors", ()):
            assert isinstance(t, torch.Tensor)
        nodes += [following for following, _ in node.next_functions]
    assert len(seen) > 1
