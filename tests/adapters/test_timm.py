"""timm's models accelerated: equal values and gradients, and what timm's own tests ask of every model.

torch.fx is in `test_fx.py`. Not here: TorchScript, which cannot follow this library's ops; `restore` comes first."""

import copy

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast.testing import randomise
from tests import peers
from tests.adapters.judge import assert_equal_outputs, both, close

timm = peers.timm()
V2 = dict(use_grn=True, ls_init_value=None)
SMALL = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 40), num_classes=5)


def small(**options):
    from timm.models.convnext import ConvNeXt

    return randomise(ConvNeXt(**(SMALL | options)), 0)


FORMS = {
    "v2-linear": (V2, 4 + 5),
    "v2-conv": (V2 | {"conv_mlp": True}, 4 + 5),
    "v1-linear": ({"ls_init_value": 0.3}, 4 + 5),
    "v1-conv": ({"ls_init_value": 0.3, "conv_mlp": True}, 4 + 5),
    "v1-no-scale": ({"ls_init_value": None}, 4 + 5),
    "no-conv-bias": (V2 | {"conv_bias": False}, 4 + 5),
    "overlapping-stem": (V2 | {"stem_type": "overlap_tiered"}, 3 + 5),
    "patch-2": (V2 | {"patch_size": 2}, 5 + 5),
    "stride-16": (V2 | {"output_stride": 16}, 3 + 5),
    "kernel-5": (V2 | {"kernel_sizes": (7, 5, 7, 3)}, 4 + 5),
    "tanh-gelu": (V2 | {"act_layer": "gelu_tanh"}, 4 + 5),
    "rms-norm": (V2 | {"norm_layer": "rmsnorm"}, 5),
    "norm-first-head": (V2 | {"head_norm_first": True}, 4 + 5),
}


@pytest.mark.parametrize("form", FORMS)
def test_equals_itself(form):
    options, count = FORMS[form]
    plain, fast, report = both(small(**options).eval())
    assert len(report.replaced) == count, report
    assert_equal_outputs(plain, fast, torch.randn(2, 3, 64, 96))


def test_what_stays_and_why():
    reasons = {r.reason for r in cf.accelerate(small(kernel_sizes=5)).not_replaced}
    assert reasons == {"not dwconv_layer_norm: the convolution is 5x5, the kernels are 7x7"}
    report = cf.accelerate(small(output_stride=16, act_layer="gelu_tanh"))
    left = {r.name: r.reason for r in report.not_replaced if r.name == "stages.3.blocks.0"}
    assert set(left) == {"stages.3.blocks.0"}
    text = str(report)
    assert "dilation 2" in text and "GELUTanh()" in text and "replaced" in text
    with_dropout = small(**V2)
    with_dropout.stages[0].blocks[0].mlp.drop1.p = 0.5
    assert any("dropout of 0.5" in r.reason for r in cf.accelerate(with_dropout.train()).not_replaced)
    assert not cf.accelerate(with_dropout.eval()).not_replaced


@pytest.mark.parametrize("size", ["atto", "tiny"])
def test_sizes_of_the_registry(size):
    model = randomise(timm.create_model(f"convnextv2_{size}", num_classes=7), 0).eval()
    plain, fast, report = both(model)
    assert not report.not_replaced
    assert_equal_outputs(plain, fast, torch.randn(1, 3, 64, 64), gradients=size == "atto")


@pytest.mark.parametrize("name", ["convnextv2_atto", "convnext_atto"])
def test_forward_and_backward(name):
    """timm's test_model_forward and test_model_backward."""
    model = timm.create_model(name, num_classes=42).train()
    cf.accelerate(model)
    count = sum(p.numel() for p in model.parameters())
    y = model(torch.randn(2, 3, 64, 64))
    y.mean().backward()
    assert y.shape == (2, 42) and not y.isnan().any()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
    assert count == sum(p.grad.numel() for p in model.parameters())


def test_configurations():
    """timm's test_model_default_cfgs: no pooling, no head, and a new head."""
    model = timm.create_model("convnextv2_atto", num_classes=10).eval()
    cf.accelerate(model)
    x = torch.randn(1, 3, 64, 64)
    features = model.forward_features(x)
    assert features.shape == (1, 320, 2, 2)
    assert model.forward_head(features, pre_logits=True).shape == (1, 320)
    model.reset_classifier(0)
    assert model(x).shape == (1, model.num_features)
    model.reset_classifier(0, "")
    assert model(x).shape == (1, 320, 2, 2)
    model.reset_classifier(4, "avg")
    assert model(x).shape == (1, 4) and cf.accelerate(model).replaced


def test_features():
    """timm's test_model_forward_features: channels, reductions and values of every map."""
    plain = timm.create_model("convnextv2_atto", features_only=True).eval()
    randomise(plain, 0)
    plain, fast, report = both(plain)
    assert {r.cls for r in report.replaced} == {"ConvNeXtBlock", "Sequential"}  # the stem is in two pieces here
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        got, want = fast(x), plain(x)
    for a, b, channels, reduction in zip(
        got, want, fast.feature_info.channels(), fast.feature_info.reduction(), strict=True
    ):
        assert a.shape == (1, channels, 96 // reduction, 64 // reduction)
        close(a, b, 2e-5, f"stride {reduction}")


def test_intermediates():
    """timm's test_model_forward_intermediates, and pruning."""
    plain, fast, _ = both(small(**V2).eval())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        final, maps = fast.forward_intermediates(x, indices=(1, 3))
        want, wanted = plain.forward_intermediates(x, indices=(1, 3))
    for a, b in zip([final, *maps], [want, *wanted], strict=True):
        close(a, b, 2e-5, "map")
    fast.prune_intermediate_layers((1,))
    assert len(fast.forward_intermediates(x, intermediates_only=True)) == 2


def test_gradient_checkpointing():
    plain, fast, _ = both(small(**V2).train())
    fast.set_grad_checkpointing()
    assert_equal_outputs(plain, fast, torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize("conv_mlp", [False, True])
def test_drop_path_draws_what_timm_draws(conv_mlp):
    plain, fast, _ = both(small(drop_path_rate=0.6, conv_mlp=conv_mlp, **V2).train())
    x = torch.randn(6, 3, 64, 64)
    results = []
    for model in (plain, fast):
        torch.manual_seed(3)
        results.append(model(x))
    close(results[1], results[0], 2e-5, "output")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("how", ["all", "autocast"])
def test_in_16_bits(dtype, how):
    """At most twice timm's own error against float64, plus rounding."""
    plain = small(**V2).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        exact = copy.deepcopy(plain).double()(x.double())
        fast = copy.deepcopy(plain)
        cf.accelerate(fast)
        errors = []
        for model in (plain, fast):
            if how == "all":
                y = model.to(dtype)(x.to(dtype))
            else:
                with torch.autocast("cpu", dtype=dtype):
                    y = model(x)
            errors.append(((y.double() - exact).abs().max() / exact.abs().max()).item())
        assert y.dtype == dtype
    assert errors[1] <= 2 * errors[0] + 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("conv_mlp", [False, True])
def test_channels_last(conv_mlp):
    plain, fast, _ = both(small(conv_mlp=conv_mlp, **V2).eval())
    fast.to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    assert_equal_outputs(plain, fast, x)
    fast(x).sum().backward()  # DistributedDataParallel warns of gradients with other strides than their parameters
    assert not [name for name, p in fast.named_parameters() if p.grad.stride() != p.stride()]


def test_moving_average():
    """timm's ModelEmaV3 copies the model and writes into the copy; packed weights must follow."""
    from timm.utils import ModelEmaV3

    model = small(**V2)
    cf.accelerate(model)
    ema = ModelEmaV3(model, decay=0.5)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ema.module.eval()(x)
        for p in model.parameters():
            p.mul_(1.5)
        ema.update(model)
        got = ema.module(x)
        plain = small(**V2).eval()
        plain.load_state_dict(ema.module.state_dict())
        close(got, plain(x), 2e-5, "average")
