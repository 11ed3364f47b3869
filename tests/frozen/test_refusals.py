"""Which models cannot be frozen, and the one error that says why."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import convnextv2_fast as cf
from tests.frozen import written_like_upstream
from tests.frozen.subjects import FAMILIES, OURS, build, error, images
from tests.native.isas import needs_library

pytestmark = needs_library


def hook(m):
    m.register_forward_hook(lambda *_: None)


def own_forward(m):
    m.forward = lambda x: x


class Rank(nn.Linear):
    """As adapters' layers are: a class of its own."""


CHANGES = {
    "a hook on a linear layer": (lambda b: hook(b.pwconv1), "the first linear layer has hooks"),
    "a hook on the block": (hook, "it has hooks"),
    "a forward": (lambda b: own_forward(b.grn), "GRN has a forward of its own"),
    "a block's forward": (own_forward, "it has a forward of its own"),
    "another activation": (lambda b: setattr(b, "act", nn.GELU("tanh")), "the activation is GELU"),
    "an adapter": (lambda b: setattr(b, "pwconv2", Rank(32, 8)), "the second linear layer is a Rank"),
    "no module": (lambda b: setattr(b, "norm", nn.Identity()), "the norm is a Identity"),
    "dilation": (lambda b: setattr(b.dwconv, "dilation", (2, 2)), "dilation 2"),
    "a parametrization": (
        lambda b: parametrizations.weight_norm(b.pwconv1),
        "the first linear layer is a Parametrized",
    ),
    "two dtypes": (lambda b: b.pwconv1.half(), "of two dtypes, float16 and float32"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_module(change):
    model = build("ours")
    act, reason = CHANGES[change]
    act(model.stages[0][0])
    model.eval()
    with pytest.raises(cf.UnsupportedInputError, match=f"freeze: stages.0.0 cannot be frozen: .*{reason}"):
        cf.freeze(model)
    assert not cf.is_frozen(model) and not hasattr(model, "frozen_program")


OUTSIDE_BLOCKS = {
    "a hook on a stage": (lambda m: hook(m.stages[1]), "stages.1 .*it has hooks"),
    "a hook on the stem's norm": (
        lambda m: hook(m.downsample_layers[0][1]),
        "downsample_layers.0 .*the norm has hooks",
    ),
    "another stem": (lambda m: m.downsample_layers.__setitem__(0, nn.Conv2d(3, 8, 4, 4)), "stem .*it is a Conv2d"),
    "an overlapping stem": (lambda m: setattr(m.downsample_layers[0][0], "stride", (2, 2)), "windows overlap"),
    "another stage": (lambda m: m.stages.__setitem__(2, nn.ModuleList()), "stages.2 .*a ModuleList"),
    "another head": (lambda m: setattr(m, "head", nn.Sequential(m.head)), "head .*the head is a Sequential"),
    "another norm": (lambda m: setattr(m, "norm", nn.LayerNorm(40, bias=False)), "norm .*no weight or no bias"),
    "a forward": (own_forward, "the model .*forward of its own"),
    "another method": (lambda m: setattr(m, "forward_features", None), "the model .*forward_features of its own"),
    "float64": (lambda m: m.double(), "the model .*it is in float64"),
    "no such stage": (lambda m: setattr(m, "out_indices", (0, 4)), r"out_indices are \(0, 4\), .* stages 0 to 3"),
    "no stages": (lambda m: setattr(m, "out_indices", None), "out_indices are None"),
}


@pytest.mark.parametrize("change", OUTSIDE_BLOCKS)
def test_a_change_outside_the_blocks(change):
    model = build("ours")
    act, reason = OUTSIDE_BLOCKS[change]
    act(model)
    with pytest.raises(cf.UnsupportedInputError, match=f"freeze: .*{reason}"):
        cf.freeze(model.eval())


def test_a_method_of_the_class_that_was_replaced(monkeypatch):
    monkeypatch.setattr(cf.ConvNeXtV2, "_stages", lambda self, x: [])
    with pytest.raises(cf.UnsupportedInputError, match=r"the model .*a class whose _stages was replaced"):
        cf.freeze(build("ours"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hook_in_the_last_block_of_any_family(family):
    model = build(family, accelerate=True)
    linears = [name for name, m in model.named_modules() if name.rsplit(".")[-1] in ("fc2", "pwconv2")]
    hook(model.get_submodule(linears[-1]))
    block = linears[-1].removesuffix(".mlp.fc2").removesuffix(".pwconv2")
    with pytest.raises(cf.UnsupportedInputError, match=f"freeze: {block} cannot be frozen: .* has hooks"):
        cf.freeze(model)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"stem_type": "overlap_tiered"}, "stem .*not a convolution and a LayerNorm"),
        ({"kernel_sizes": 5}, "5x5"),
        ({"output_stride": 16}, "stages.3.downsample"),
        ({"act_layer": "gelu_tanh"}, "GELUTanh"),
        ({"global_pool": "max"}, "'max'"),
        ({"norm_layer": "rmsnorm"}, "stem"),
    ],
)
def test_forms_of_timm(options, reason):
    from timm.models.convnext import ConvNeXt

    model = ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), use_grn=True, ls_init_value=None, **options).eval()
    with pytest.raises(cf.UnsupportedInputError, match=reason):
        cf.freeze(model)


INSIDE = {  # modules inside another one, and what no program stands for
    "another pooling": ("timm-v2", lambda m: setattr(m.head.global_pool, "pool", nn.AdaptiveMaxPool2d(1)), "MaxPool2d"),
    "pooling to 2x2": ("timm-v2", lambda m: setattr(m.head.global_pool.pool, "output_size", 2), "output_size is 2"),
    "a hook on pooling": ("timm-v2", lambda m: hook(m.head.global_pool.pool), "global_pool.pool .*has hooks"),
    "a hook on flatten": ("timm-v2", lambda m: hook(m.head.global_pool.flatten), "global_pool.flatten .*has hooks"),
    "other dimensions": ("timm-v2", lambda m: setattr(m.head.flatten, "start_dim", 2), "flattens other dimensions"),
    "not flattened": ("timm-v2", lambda m: setattr(m.head, "flatten", nn.Identity()), r"to \[N, C\]"),
    "a map flattened": (
        "timm-no-pool",
        lambda m: setattr(m.head, "flatten", nn.Flatten(1)),
        "head.flatten .*a Flatten",
    ),
    "a hook on no norm": ("timm-norm-first", lambda m: hook(m.norm_pre), "norm_pre .*has hooks"),
    "a hook on no head": ("timm-no-pool", lambda m: hook(m.head.pre_logits), "head.pre_logits .*has hooks"),
    "a hook on a shortcut": ("timm-v2", lambda m: hook(m.stages[0].blocks[0].shortcut), "the shortcut has hooks"),
    "in timm's model": ("timm-v2", lambda m: m.head.add_module("more", nn.GELU()), "head.more .*a GELU in a place"),
    "in timm's list": ("timm-list", lambda m: m.stages_0.add_module("more", nn.GELU()), "stages_0.more .*a GELU in"),
    "in our block": ("ours", lambda m: m.stages[0][0].add_module("more", nn.GELU()), "stages.0.0.more .*a GELU in"),
    "in upstream's": ("upstream", lambda m: m.add_module("more", nn.GELU()), "more .*a GELU in a place"),
    "in an encoder": (
        "transformers-v2-classifier",
        lambda m: m.convnextv2.encoder.stages[1].add_module("more", nn.GELU()),
        "convnextv2.encoder.stages.1.more .*a GELU in a place",
    ),
}


@pytest.mark.parametrize("what", INSIDE)
def test_a_module_inside_another(what):
    family, act, reason = INSIDE[what]
    model = build(family)
    act(model)
    with pytest.raises(cf.UnsupportedInputError, match=f"freeze: .*{reason}"):
        cf.freeze(model.eval())
    assert not cf.is_frozen(model)


@pytest.mark.parametrize("pool_type", ["fast", "fastavg"])
def test_the_mean_by_another_name(pool_type):
    from timm.layers import SelectAdaptivePool2d

    model, x = build("timm-v2"), images()
    model.head.global_pool = SelectAdaptivePool2d(pool_type=pool_type, flatten=False).eval()
    with torch.no_grad():
        want = model(x)
        assert error(cf.freeze(model)(x), want) < 5e-6


@pytest.mark.parametrize("name", ["PooledByTheLargest", "StagesFirst", "OfOneSample"])
def test_look_alikes_of_upstream(name):
    with pytest.raises(cf.UnsupportedInputError, match="has the name of upstream's, but it"):
        cf.freeze(getattr(written_like_upstream, name)().eval())


class Derived(cf.ConvNeXtV2):
    pass


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: build("ours").train(), "the model is in training mode; call model.eval"),
        (lambda: _with(build("ours"), lambda m: m.stages[0][0].train()), "stages.0.0 is in training mode"),
        (lambda: build("ours").to("meta"), "no values"),
        (lambda: nn.Sequential(build("ours")), "a Sequential; known are .*inside it, model.0"),
        (lambda: Derived(**OURS).eval(), "a Derived, a class derived from ConvNeXtV2"),
        (lambda: nn.Linear(3, 3).eval(), "a Linear; known are"),
        (lambda: torch.zeros(3), "wants an nn.Module, got Tensor"),
    ],
)
def test_other_models(model, words):
    with pytest.raises(cf.UnsupportedInputError, match=f"freeze: .*{words}"):
        cf.freeze(model())


def _with(model, act):
    act(model)
    return model


@pytest.mark.parametrize("devices", [["mps"], ["cpu", "cuda:0"], ["cuda:0", "cuda:1"]])
def test_a_model_elsewhere(monkeypatch, devices):
    model = build("ours")
    parameters = [type("P", (), {"device": torch.device(device)}) for device in devices]
    monkeypatch.setattr(type(model), "parameters", lambda self: iter(parameters))
    with pytest.raises(cf.UnsupportedInputError, match=f"on {' and '.join(devices)}; .* on one CUDA GPU"):
        cf.freeze(model)


def test_another_backend(monkeypatch):
    with cf.use_backend("torch"), pytest.raises(cf.UnsupportedInputError, match="asked to run on 'torch'"):
        cf.freeze(build("ours"))
    monkeypatch.setenv("CONVNEXTV2_FAST_BACKEND", "torch")
    with pytest.raises(cf.UnsupportedInputError, match="asked to run on 'torch'"):
        cf.freeze(build("ours"))


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(cf.library._missing, "cpu", "this installation has no _C_cpu.so")
    with pytest.raises(cf.UnsupportedInputError, match="no CPU kernels: this installation has no"):
        cf.freeze(build("ours"))
