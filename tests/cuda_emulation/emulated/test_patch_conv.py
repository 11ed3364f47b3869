"""The operators of patch_conv, emulated: gradients that are wanted, dtypes and forms of parameters, planes, plans."""

import copy
import itertools

import pytest
import torch
from torch import nn

import convnextv2_fast as cf
from convnextv2_fast import ops, pair_plans
from convnextv2_fast.layouts import SiteLayout
from convnextv2_fast.models.convnextv2 import PatchConv
from convnextv2_fast.models.utils import LayerNorm
from convnextv2_fast.ops._patch_conv import cuda_operators as operators
from convnextv2_fast.ops._shared import cuda

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
NAMES = ("x", "weight", "bias", "before_weight", "before_bias", "after_weight", "after_bias")


def tensors(c_in=8, c_out=16, k=2, size=6, norm="before", dtype=F32, **dtypes):
    """By NAMES; None for the norm that there is not. `dtypes`: of single ones."""
    g = torch.Generator().manual_seed(1)
    shapes = dict(x=(2, size, size, c_in), weight=(c_out, c_in, k, k), bias=(c_out,))
    if norm in ("before", "both"):
        shapes |= dict(before_weight=(c_in,), before_bias=(c_in,))
    if norm in ("after", "both"):
        shapes |= dict(after_weight=(c_out,), after_bias=(c_out,))
    made = {name: torch.randn(shape, generator=g) / 2 for name, shape in shapes.items()}
    return {name: made[name].to(dtypes.get(name, dtype)) if name in made else None for name in NAMES}


def call(t, backend="cuda", **options):
    norms = {f"norm_{at}": (t[f"{at}_weight"], t[f"{at}_bias"]) for at in ("before", "after") if f"{at}_weight" in t}
    norms = {name: None if pair[0] is None else pair for name, pair in norms.items()}
    return ops.patch_conv(t["x"], t["weight"], t["bias"], **norms, backend=backend, **options)


def gradients(t, wanted, **options):
    """Of the tensors that are `wanted`, by name."""
    leaves = {n: v if v is None else v.detach().clone().requires_grad_(n in wanted) for n, v in t.items()}
    y = call(leaves, **options)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype)
    return dict(zip(wanted, torch.autograd.grad(y, [leaves[n] for n in wanted], dy), strict=True))


@pytest.mark.parametrize("norm", ["before", "after", "both", None])
def test_only_what_is_wanted(norm):
    """Every gradient alone, and every pair, has the bits that it has beside all others."""
    t = tensors(norm=norm, size=5)
    there = [name for name in NAMES if t[name] is not None]
    whole = gradients(t, there)
    for n in (1, 2):
        for wanted in itertools.combinations(there, n):
            for name, value in gradients(t, wanted).items():
                assert torch.equal(value, whole[name]), (wanted, name)


@pytest.mark.parametrize("narrow", [("weight",), ("bias",), ("before_weight", "before_bias"), ("after_bias",), ()])
@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_parameters_in_mixed_dtypes(dtype, narrow):
    """Each in x's dtype or float32: gradients in their own, as near to those in float32 as the dtype is."""
    t = tensors(norm="both", dtype=F32, x=dtype, **dict.fromkeys(narrow, dtype))
    exact = gradients({n: v.double() for n, v in t.items()}, NAMES, backend="torch")
    for name, value in gradients(t, NAMES).items():
        assert value.dtype == t[name].dtype
        error = (value.double() - exact[name]).norm() / exact[name].norm()
        assert error < 16 * torch.finfo(dtype).eps, name


@pytest.mark.parametrize("param_dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize(("c_in", "k"), [(3, 4), (8, 2), (1, 2), (5, 1)])
def test_forms_of_the_weight(c_in, k, param_dtype):
    """Contiguous, in channels_last, a slice, MinkowskiEngine's: one result, and the gradient lies as the weight."""
    t = tensors(c_in, 16, k, 8, "after", BF16, weight=param_dtype)
    own = t["weight"]
    forms = {
        "contiguous": own,
        "channels_last": own.to(memory_format=torch.channels_last),
        "slice": torch.cat((own, own), 1)[:, :c_in],
    }
    want = call(t)
    want_gradient = gradients(t, ["weight"])["weight"]
    for form, weight in forms.items():
        leaf = weight.detach().requires_grad_()
        y = call(t | {"weight": leaf})
        assert torch.equal(y, want), form
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype)
        y.backward(dy)
        assert torch.equal(leaf.grad, want_gradient), form
        assert form == "slice" or leaf.grad.stride() == leaf.stride(), form
    taps = own.permute(3, 2, 1, 0).reshape(k * k, c_in, -1)
    torch.testing.assert_close(call(t | {"weight": taps}), want, rtol=2e-2, atol=2e-2)
    back = gradients(t | {"weight": taps}, ["weight"])["weight"]
    back = back.view(k, k, c_in, -1).permute(3, 2, 1, 0)
    torch.testing.assert_close(back, want_gradient, rtol=2e-2, atol=2e-1)


def layers(kind):
    if kind == "stem":
        return PatchConv(nn.Conv2d(3, 16, 4, 4), LayerNorm(16, eps=1e-6, data_format="channels_first"))
    return PatchConv(LayerNorm(8, eps=1e-6, data_format="channels_first"), nn.Conv2d(8, 16, 2, 2))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", ["stem", "downsampling"])
def test_planes_by_a_plan(kind, autocast):
    """The second call takes planes by the plan that the first has left: the same bits, strides and gradients."""
    layer = layers(kind)
    image = torch.randn(2, 3 if kind == "stem" else 8, 9, 8)
    found = []
    with cf.use_backend("cuda"):
        for _ in range(3):
            x = image.clone().requires_grad_()
            with torch.autocast("cpu", BF16, enabled=autocast):
                y = layer(x)
            found.append((y, *torch.autograd.grad(y.float().square().sum(), [x, *layer.parameters()])))
        assert layer in pair_plans._plans
        with torch.no_grad(), torch.autocast("cpu", BF16, enabled=autocast):
            assert torch.equal(layer(image), found[0][0])
    for again in found[1:]:
        assert all(torch.equal(a, b) and a.stride() == b.stride() for a, b in zip(found[0], again, strict=True))


def test_a_plan_is_given_up():
    """Where a module or the request changes, and in copies; what does not fit is said by the op."""
    layer, x = layers("downsampling"), torch.randn(1, 8, 4, 4)
    with cf.use_backend("cuda"):
        layer(x)
        assert layer in pair_plans._plans and copy.deepcopy(layer) not in pair_plans._plans
        layer[1].register_forward_hook(lambda m, args, y: y * 0)
        assert not layer(x).any()
        layer = layers("downsampling")
        layer(x)
        layer[0].eps = 10.0
        torch.testing.assert_close(layer(x), nn.Sequential(*layer)(x))
        layer(x)
        with pytest.raises(cf.UnsupportedInputError, match="patch_conv: wants x"):
            layer(torch.randn(1, 7, 4, 4))
        layer(x)
        with pytest.raises(cf.UnsupportedInputError, match="H and W must be at least k=2"):
            layer(torch.randn(1, 8, 1, 4))
        layer(x)
    with cf.use_backend("torch"):
        layer(x)
    assert layer not in pair_plans._plans


def test_wider_than_the_kernels_norm():
    t = tensors(2, cuda.WIDEST + 8, 2, 2, "after")
    for name, value in gradients(t, ["x", "weight", "after_weight"]).items():
        want = gradients(t, ["x", "weight", "after_weight"], backend="torch")[name]
        torch.testing.assert_close(value, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["before", "after", "both"])
def test_second_derivatives(norm):
    t = {n: v if v is None else v.double().float().requires_grad_() for n, v in tensors(norm=norm, size=4).items()}
    there = [v for v in t.values() if v is not None]

    def second(backend):
        y = call(t, backend)
        first = torch.autograd.grad(y.sin().sum(), there, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), there)

    for got, want in zip(second("cuda"), second("torch"), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("norm", ["before", "after"])
@pytest.mark.parametrize("sites", [False, True])
def test_operators_say_what_they_return(norm, sites, planes):
    """Shapes, dtypes and strides of the results are those that tracing is told; of planes and rows the same numbers."""
    t = tensors(norm=norm, dtype=BF16, weight=F32, size=7)
    layout = SiteLayout.from_mask((torch.rand(2, 3, 3) < 0.5).float())
    x = t.pop("x").permute(0, 3, 1, 2) if planes else t.pop("x")
    table, rows = (layout.index, layout.rows) if sites else (None, 18)
    args = (x, *t.values(), 1e-6, planes, table, rows, 7, 7, 2)
    names = ("test_schema", "test_faketensor")
    torch.library.opcheck(operators.forward, args, test_utils=names)
    torch.library.opcheck(operators.forward_train, args, test_utils=names)
    out, z, copies = operators.forward_train(*args)
    want = call(t | {"x": x.permute(0, 2, 3, 1) if planes else x}, layout=layout if sites else None)
    assert torch.equal(out.permute(0, 2, 3, 1) if planes and not sites else out, want)
    z = z if norm == "after" else None
    dout = torch.randn_like(out)
    for wanted in (0b10_10_00_00_01_01_10 if norm == "after" else 0b10_10_01_01_10, 0b01_00, 0):
        back = (dout, x, z, copies, t["weight"], t["before_weight"], t["before_bias"], t["after_weight"], wanted)
        torch.library.opcheck(operators.backward, (*back, *args[7:]), test_utils=names)


def test_operators_refuse():
    t = tensors()
    good = (*t.values(), 1e-6, False, None, 18, 6, 6, 2)
    operators.forward(*good)
    for at, value, wants in (
        (0, t["x"].double(), "x must be contiguous"),
        (0, t["x"].transpose(1, 2), "x must be contiguous"),
        (1, t["weight"][:, 1:], "weight must be"),
        (1, t["weight"].half(), "weight must be"),
        (2, t["bias"][1:], "bias must be"),
        (3, t["before_weight"][1:], "norm_before must be"),
        (10, 17, "whole planes"),
        (11, 5, "the plane H, W"),
        (9, torch.zeros(18, 3, dtype=torch.int64), "table must be"),
    ):
        with pytest.raises(ValueError, match=wants):
            operators.forward(*good[:at], value, *good[at + 1 :])
