"""Rounding where it would be enlarged, or where a sum is long: as good as plain PyTorch on every instruction set."""

import functools

import pytest
import torch
import torch.nn.functional as F

from convnextv2_fast import ops
from convnextv2_fast.testing import make, relative_error
from tests.native.isas import needs_library

pytestmark = [pytest.mark.cpu_kernel, needs_library]
EPS = torch.finfo(torch.float32).eps
CHANNELS = (7, 33, 40, 80, 96, 160, 320)


def layer_norm(x, one, bias):
    return ops.layer_norm(x, one, bias, backend="cpu")


def dwconv_layer_norm(x, one, bias):
    kernel = torch.zeros(49, x.shape[-1])
    kernel[24] = 1.0
    return ops.dwconv_layer_norm(x, kernel, None, one, bias, backend="cpu")


def block(x, one, bias):
    """Whose MLP is that of the identity matrix: GELU of the LayerNorm's result, and nothing of GRN."""
    c = x.shape[-1]
    kernel, eye, zero = torch.zeros(c, 1, 7, 7), torch.eye(c), torch.zeros(c)
    kernel[:, :, 3, 3] = 1.0
    with torch.inference_mode():
        return ops.block(x, kernel, zero, one, bias, eye, zero, zero, zero, eye, zero, backend="cpu") - x


def norm_before(x, one, bias):
    c = x.shape[-1]
    weight = torch.eye(c).view(c, c, 1, 1)
    return ops.patch_conv(x, weight, None, norm_before=(one, bias), backend="cpu")


def norm_after(x, one, bias):
    c = x.shape[-1]
    weight = torch.eye(c).view(c, c, 1, 1)
    return ops.patch_conv(x, weight, None, norm_after=(one, bias), backend="cpu")


@pytest.mark.parametrize("function", [layer_norm, dwconv_layer_norm, block, norm_before, norm_after])
def test_constant_rows(isa, function):
    """Channels that are all equal differ from their mean by 0, not by an ulp that 1 / sqrt(eps) makes 1e-3."""
    torch.manual_seed(0)
    values = torch.cat([torch.randn(30), torch.tensor([0.1, 3e-5, 1e3, 12345.678])])
    for c in CHANNELS:
        x = values.view(1, -1, 1, 1).expand(1, len(values), 2, c).contiguous()
        y = function(x, torch.ones(c), torch.zeros(c))
        assert not y.any(), f"{c} channels: {y.abs().max():.1e}"


def test_gradients_of_constant_rows(isa):
    torch.manual_seed(0)
    c, rows = 33, 30
    x = torch.randn(rows, 1).expand(rows, c).contiguous().requires_grad_()
    weight, bias = torch.randn(c, requires_grad=True), torch.zeros(c, requires_grad=True)
    dy = torch.randn(rows, c)
    grads = {}
    for backend in ("cpu", "torch"):
        y = ops.layer_norm(x, weight, bias, backend=backend)
        grads[backend] = torch.autograd.grad(y, [x, weight], dy)
    torch.testing.assert_close(grads["cpu"], grads["torch"], rtol=1e-5, atol=1e-3)
    assert not grads["cpu"][1].any()


# Each was off by 9 to 15 eps when products summed a whole reduction in one go, and rows one after the other.
LONG_SUMS = [
    ("patch_conv", (8, 2, 2, 320), "patch", 2, ["out"]),
    ("patch_conv", (2, 5, 9, 192), "patch", 1, ["out"]),
    ("mlp_grn", (8, 2, 2, 320), "patch", 2, ["out", "u"]),
    ("mlp_grn", (8, 2, 2, 320), "dense", 2, ["out", "u", "gamma"]),
]


@pytest.mark.parametrize(("op", "shape", "kind", "seed", "names"), LONG_SUMS)
def test_long_sums(isa, op, shape, kind, seed, names):
    problem = make(op, *shape, kind, seed)
    found = []
    for dtype, backend in ((torch.float64, "torch"), (torch.float32, "cpu")):
        p = problem.to(dtype)
        y = p.public(backend=backend)
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        y.backward(dy.to(dtype))
        found.append({"out": y.detach()} | {name: t.grad for name, t in p.tensors.items()})
    exact, got = found
    for name in names:
        error = ((got[name].double() - exact[name]).abs().max() / exact[name].abs().max()).item()
        assert error <= 6 * EPS, f"{name}: {error / EPS:.1f} eps"


def composed_mlp(u, w1, b1, gamma, beta, w2, b2):
    """The MLP of a block as PyTorch's own operators compute it under autocast to bfloat16, or in float64."""
    with torch.autocast("cpu", torch.bfloat16, enabled=u.dtype is not torch.float64):
        g = F.gelu(F.linear(u, w1, b1))
        norm = g.norm(dim=(1, 2), keepdim=True)
        scaled = g * (norm / (norm.mean(dim=-1, keepdim=True) + 1e-6))
        return F.linear(gamma * scaled + beta + g, w2, b2)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(2, 12, 11, 40), (3, 7, 7, 96)], ids=str)
def test_gradients_in_bfloat16(isa, shape, weights):
    """mlp_grn's gradients have at most the error of PyTorch's operators, and half an ulp of bfloat16 where they are
    bfloat16 themselves."""
    problem = make("mlp_grn", *shape).to(torch.bfloat16, param_dtype=weights)
    del problem.tensors["residual"], problem.tensors["row_scale"]
    dy = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)

    def gradients(p, function):
        y = p.call(function)
        y.backward(dy.to(y))
        return {name: t.grad.double() for name, t in p.tensors.items()}

    exact = gradients(problem.to(torch.float64), composed_mlp)
    plain = gradients(problem.to(torch.bfloat16, param_dtype=weights), composed_mlp)
    got = gradients(problem, functools.partial(ops.mlp_grn, backend="cpu"))
    for name, want in exact.items():
        ours, theirs = (((g[name] - want).abs().max() / want.abs().max()).item() for g in (got, plain))
        own = torch.finfo(problem.tensors[name].dtype).eps / 2
        assert ours <= theirs + own, f"{name}: {ours:.1e}, PyTorch {theirs:.1e}"


@pytest.mark.parametrize("op", ["grn", "layer_norm", "mlp_grn"])
def test_sums_over_many_rows(isa, op):
    """The gradients of vectors of parameters, each a sum over 150 000 rows of terms of which few cancel."""
    rows, c = 150_000, 4
    problem, found = make(op, 1, 1, rows, c).to(torch.float32), []
    for p, backend in ((problem, "cpu"), (problem.to(torch.float64), "torch")):
        y = p.public(backend=backend)
        y.backward(torch.linspace(0.5, 1.5, y.numel(), dtype=torch.float64).view(y.shape).to(y))
        found.append({name: t.grad for name, t in p.tensors.items() if t.numel() <= 4 * c})
    for name, want in found[1].items():
        error = ((found[0][name].double() - want).abs().max() / want.abs().max().clamp_min(1e-3)).item()
        assert error <= 4 * EPS, f"{name}: {error / EPS:.1f} eps"


@pytest.mark.parametrize("mean", [-1000.0, -30.0, -10.0, -8.0, -7.0, -6.0, -5.0, -4.0, 0.0, 30.0])
@pytest.mark.parametrize(("spread", "saturated"), [(1.0, "all"), (0.3, "all"), (1.0, "one sample")])
def test_gelu_of_large_numbers_in_bfloat16(isa, mean, spread, saturated):
    """Where most hidden activations are far below zero, GRN divides by the small norm of what GELU leaves of them."""

    def results(tensors, dtype, backend):
        given = [t.to(dtype).requires_grad_() for t in tensors]
        y = ops.mlp_grn(*given, backend=backend)
        return [y.detach(), *torch.autograd.grad(y.sum(), given)]

    for seed in range(3):
        torch.manual_seed(seed)
        u, w1, b1 = torch.randn(2, 7, 7, 96), spread * torch.randn(384, 96) / 96**0.5, spread * torch.randn(384)
        if saturated == "all":
            b1 += mean
        else:  # a channel that is a constant in one sample, and shifts its hidden activations
            u[..., 0], w1[:, 0] = 0.0, 1.0
            u[1, ..., 0] = mean
        tensors = [u, w1, b1, *(0.5 * torch.randn(2, 384)), torch.randn(96, 384) / 384**0.5, torch.zeros(96)]
        tensors = [t.bfloat16() for t in tensors]
        names = ("y", "du", "dw1", "db1", "dgamma", "dbeta", "dw2", "db2")
        exact, plain = results(tensors, torch.float64, "torch"), results(tensors, torch.bfloat16, "torch")
        ours = results(tensors, torch.bfloat16, "cpu")
        for name, got, want, simple in zip(names, ours, exact, plain, strict=True):
            limit = 2 * relative_error(simple, want) + 4 * torch.finfo(torch.bfloat16).eps
            assert relative_error(got, want) <= limit, f"seed {seed}, {name}"


def test_a_large_negative_outlier_in_bfloat16(isa):
    """Its GELU is zero, and does not overflow in GRN's norm."""
    x, eye, zero = torch.zeros(1, 1, 1, 32), torch.eye(32).bfloat16(), torch.zeros(32).bfloat16()
    x[..., 0], x[..., 1] = -1e26, 1.0
    y = ops.mlp_grn(x.bfloat16(), eye, zero, zero, zero, eye, zero, backend="cpu")
    assert y[..., 0] == 0.0
    assert y[..., 1] == torch.tensor(0.8413).bfloat16()
