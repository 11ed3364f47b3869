"""The dense model: upstream's names, counts and values, and what we add."""

import copy

import pytest
import torch
from torch import nn

import convnextv2_fast as cf
from convnextv2_fast import fusion
from convnextv2_fast.models import convnextv2 as module
from convnextv2_fast.models.convnextv2 import SIZES, Block, ConvNeXtV2
from convnextv2_fast.testing import randomise
from tests import peers

COUNTS = {  # parameters with 1000 classes, state_dict keys: upstream's
    "atto": (3_708_400, 140),
    "femto": (5_233_240, 140),
    "pico": (9_066_280, 140),
    "nano": (15_623_800, 160),
    "tiny": (28_635_496, 200),
    "base": (88_717_800, 380),
    "large": (197_956_840, 380),
    "huge": (660_289_640, 380),
}
SMALL = {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 40]}


@pytest.mark.parametrize("size", SIZES)
def test_names_and_counts(size):
    with torch.device("meta"):
        model = getattr(cf, f"convnextv2_{size}")()
    sd = model.state_dict()
    depths, dims = SIZES[size]
    assert (sum(p.numel() for p in model.parameters()), len(sd)) == COUNTS[size]
    assert (model.depths, model.dims) == (depths, dims)
    c0, c1 = dims[:2]
    want = {
        "downsample_layers.0.0.weight": (c0, 3, 4, 4),
        "downsample_layers.0.1.weight": (c0,),
        "downsample_layers.1.0.bias": (c0,),
        "downsample_layers.1.1.weight": (c1, c0, 2, 2),
        "stages.1.0.dwconv.weight": (c1, 1, 7, 7),
        "stages.1.1.norm.weight": (c1,),
        "stages.1.1.pwconv1.weight": (4 * c1, c1),
        "stages.1.1.grn.gamma": (1, 1, 1, 4 * c1),
        "stages.1.1.pwconv2.weight": (c1, 4 * c1),
        "norm.weight": (dims[3],),
        "head.weight": (1000, dims[3]),
    }
    assert {k: tuple(sd[k].shape) for k in want} == want


def test_upstreams_spelling():
    assert module.__dict__["convnext_pico"] is cf.convnextv2_pico is cf.convnext_pico
    with pytest.raises(TypeError):
        cf.convnextv2_atto(depths=[1, 1, 1, 1])


@pytest.mark.parametrize("size", [(224, 224), (193, 257), (32, 47)])
def test_equals_the_reference(size):
    torch.manual_seed(0)
    model = randomise(cf.convnextv2_atto(num_classes=11)).eval()
    x = torch.randn(2, 3, *size)
    want = cf.reference.convnextv2({k: v.double() for k, v in model.state_dict().items()}, x.double())
    with torch.no_grad():
        for images in (x, x.to(memory_format=torch.channels_last)):
            got = model(images)
            assert (got.double() - want).abs().max() <= 1e-5 * want.abs().max()
        assert torch.equal(model.head(model.forward_features(x)), model(x))


def test_gradients_equal_the_references():
    model = randomise(ConvNeXtV2(num_classes=5, **SMALL)).train()
    x = torch.randn(3, 3, 64, 96, requires_grad=True)
    model(x).square().sum().backward()
    params = {k: v.detach().double().requires_grad_() for k, v in model.state_dict().items()}
    exact = x.detach().double().requires_grad_()
    cf.reference.convnextv2(params, exact).square().sum().backward()
    for name, p in [("images", x), *model.named_parameters()]:
        want = exact.grad if name == "images" else params[name].grad
        assert (p.grad.double() - want).abs().max() <= 2e-5 * want.abs().max(), name


def test_channels_last_throughout():
    model = ConvNeXtV2(**SMALL).eval()
    for m in model.forward_features_list(torch.randn(1, 3, 64, 64)):
        assert m.is_contiguous(memory_format=torch.channels_last)


def test_features_only():
    model = randomise(ConvNeXtV2(features_only=True, out_indices=(1, 3), out_norms=True, **SMALL)).eval()
    maps = model(torch.randn(2, 3, 96, 64))
    assert [tuple(m.shape) for m in maps] == [(2, 16, 12, 8), (2, 40, 3, 2)]
    assert [f["num_chs"] for f in model.feature_info] == [16, 40]
    assert [f["reduction"] for f in model.feature_info] == [8, 32]
    assert {k.split(".")[0] for k in model.state_dict()} == {"downsample_layers", "stages", "norm1", "norm3"}
    full = ConvNeXtV2(**SMALL).eval()
    full.load_state_dict(model.state_dict(), strict=False)
    x = torch.randn(1, 3, 64, 64)
    raw = full.forward_features_list(x)
    torch.testing.assert_close(model(x)[1], model.norm3(raw[3]))
    want = cf.reference.convnextv2_features(full.state_dict(), x)
    for got, ref in zip(raw, want, strict=True):
        torch.testing.assert_close(got.permute(0, 2, 3, 1), ref, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="out_indices"):
        ConvNeXtV2(out_indices=(4,), **SMALL)


def test_classifier():
    model = ConvNeXtV2(num_classes=7, head_init_scale=0.0, **SMALL)
    assert not model.head.weight.any() and model.get_classifier() is model.head
    model = model.double()
    model.reset_classifier(3)
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    assert model(x).shape == (1, 3) and model.head.weight.dtype == torch.float64 and model.num_classes == 3
    model.reset_classifier(0)
    assert torch.equal(model(x), model.forward_features(x))
    assert "head.weight" not in ConvNeXtV2(num_classes=0, **SMALL).state_dict()


def test_grad_checkpointing_changes_nothing():
    model = randomise(ConvNeXtV2(drop_path_rate=0.5, **SMALL)).train()
    x = torch.randn(4, 3, 64, 64)
    grads = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(1)
        model(x).square().sum().backward()
        grads.append({k: p.grad.clone() for k, p in model.named_parameters()})
    for name, g in grads[0].items():
        torch.testing.assert_close(grads[1][name], g, msg=name)


def test_drop_path_draws_timms_numbers():
    peers.timm()
    from timm.layers import DropPath as TimmDropPath

    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(64, 3, 2, 2).to(dtype)
        ours, timms = cf.utils.DropPath(0.3).train(), TimmDropPath(0.3).train()
        torch.manual_seed(3)
        want = timms(x)
        torch.manual_seed(3)
        assert torch.equal(ours(x), want)
        torch.manual_seed(3)
        scale = ours.row_scale(x, 64)
        assert torch.equal(x * scale.view(-1, 1, 1, 1), want)
    rates = [
        b.drop_path.drop_prob
        for s in ConvNeXtV2(drop_path_rate=0.4, **SMALL).stages
        for b in s
        if hasattr(b.drop_path, "drop_prob")
    ]
    assert rates == torch.linspace(0, 0.4, 5).tolist()[1:]
    assert isinstance(Block(8).drop_path, nn.Identity) and not Block(8, 0.1).drop_path.state_dict()


def test_trunc_normal_draws_timms_numbers():
    peers.timm()
    from timm.layers import trunc_normal_

    for std in (0.02, 1.0):
        a, b = torch.empty(1000), torch.empty(1000)
        torch.manual_seed(5)
        trunc_normal_(a, std=std)
        torch.manual_seed(5)
        cf.utils.trunc_normal_(b, std=std)
        assert torch.equal(a, b)


def test_initialisation_draws_upstreams_numbers():
    """The sequence of upstream's constructor, written out with timm's trunc_normal_: same seed, same weights."""
    peers.timm()
    from timm.layers import trunc_normal_

    depths, dims = SMALL["depths"], SMALL["dims"]
    torch.manual_seed(7)
    layers: dict[str, nn.Module] = {"downsample_layers.0.0": nn.Conv2d(3, dims[0], 4, 4)}
    for i in range(3):
        layers[f"downsample_layers.{i + 1}.1"] = nn.Conv2d(dims[i], dims[i + 1], 2, 2)
    for i, (depth, c) in enumerate(zip(depths, dims, strict=True)):
        for j in range(depth):
            layers[f"stages.{i}.{j}.dwconv"] = nn.Conv2d(c, c, 7, padding=3, groups=c)
            layers[f"stages.{i}.{j}.pwconv1"] = nn.Linear(c, 4 * c)
            layers[f"stages.{i}.{j}.pwconv2"] = nn.Linear(4 * c, c)
    layers["head"] = nn.Linear(dims[3], 10)
    for layer in layers.values():
        trunc_normal_(layer.weight, std=0.02)
    after = torch.rand(1)
    torch.manual_seed(7)
    model = ConvNeXtV2(num_classes=10, head_init_scale=0.5, **SMALL)
    assert torch.equal(torch.rand(1), after)
    for name, layer in layers.items():
        ours = model.get_submodule(name)
        assert torch.equal(ours.weight, layer.weight * (0.5 if name == "head" else 1)), name
        assert not ours.bias.any()


def test_replaced_and_hooked_modules_are_honoured():
    """A fused op must not skip what a user put in: hooks, replaced layers, another activation."""
    block = randomise(Block(8)).eval()
    x = torch.randn(1, 8, 5, 5)
    want = block(x)
    assert fusion.inspect(block.parts()) == (("dwconv_layer_norm", "mlp_grn"), ())
    calls = []
    handle = block.pwconv1.register_forward_hook(lambda *a: calls.append(1))
    torch.testing.assert_close(block(x), want)
    assert calls
    handle.remove()
    block.act = nn.ReLU()
    assert fusion.inspect(block.parts()).ops == ("dwconv_layer_norm",) and not torch.allclose(block(x), want)

    class Doubled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    other = copy.deepcopy(block)
    other.pwconv2 = Doubled(32, 8)
    assert fusion.inspect(other.parts()).ops == ("dwconv_layer_norm",)
    stem = ConvNeXtV2(**SMALL).downsample_layers[0]
    before = stem(torch.ones(1, 3, 32, 32))
    stem[0].register_forward_hook(lambda m, a, o: o + torch.linspace(0, 1, 8).view(1, -1, 1, 1))
    assert not torch.allclose(stem(torch.ones(1, 3, 32, 32)), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_models(dtype):
    model = randomise(ConvNeXtV2(**SMALL)).eval()
    x = torch.randn(2, 3, 64, 64)
    want = cf.reference.convnextv2({k: v.double() for k, v in model.state_dict().items()}, x.double())
    got = model.to(dtype)(x.to(dtype))
    assert got.dtype == dtype and (got.double() - want).norm() <= 8 * torch.finfo(dtype).eps * want.norm()


def test_autocast_trains():
    model = randomise(ConvNeXtV2(**SMALL)).train()
    x = torch.randn(2, 3, 64, 64)
    want = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = model(x)
    assert (got.float() - want).norm() <= 0.03 * want.norm()
    got.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_compile_and_export():
    model = randomise(ConvNeXtV2(**SMALL)).eval()
    x = torch.randn(2, 3, 64, 64)
    want = model(x)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), want, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), want, rtol=1e-4, atol=1e-5)
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), want, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 64, 64), r"ConvNeXtV2: wants images \[N, 3, H, W\], got \(3, 64, 64\)"),
        (torch.zeros(1, 4, 64, 64), r"wants images \[N, 3, H, W\], got \(1, 4, 64, 64\)"),
        (torch.zeros(1, 3, 64, 31), r"at least 32 .* got 64x31"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r"floating-point images, got torch.uint8"),
    ],
)
def test_bad_input(images, message):
    with pytest.raises(cf.UnsupportedInputError, match=message):
        ConvNeXtV2(**SMALL)(images)
