"""The models that this folder freezes: of every family, small, with nothing at zero, in evaluation mode."""

import copy

import torch

import convnextv2_fast as cf
from convnextv2_fast.testing import randomise
from tests import peers

OURS = dict(num_classes=5, depths=[1, 1, 2, 1], dims=[8, 16, 24, 40])
TIMM = dict(num_classes=5, depths=(1, 1, 2, 1), dims=(8, 16, 24, 40))
V2 = dict(use_grn=True, ls_init_value=None)
TIMM_FORMS = {
    "timm-v2": V2,
    "timm-conv": V2 | {"conv_mlp": True, "conv_bias": False},
    "timm-v1": {"ls_init_value": 0.3},
    "timm-norm-first": V2 | {"head_norm_first": True},
    "timm-hidden-head": V2 | {"head_hidden_size": 12},
    "timm-no-pool": V2 | {"global_pool": "", "num_classes": 0},
    "timm-patch-2": {"ls_init_value": None, "patch_size": 2},
}
FAMILIES = (
    *("ours", "ours-maps", "ours-no-head", "upstream", "upstream-v1", "timm-list", "timm-dict", *TIMM_FORMS),
    *(f"transformers-{v}-{kind}" for v in ("v1", "v2") for kind in ("model", "classifier", "backbone")),
)
ONE_OF_EACH = ("ours", "upstream", "timm-v2", "transformers-v2-classifier")


def build(family, *, accelerate=False):
    """The same model at each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = randomise(_made(family), 0).eval()
    if accelerate:
        cf.accelerate(model)
    return model


def _made(family):
    if family == "ours":
        return cf.ConvNeXtV2(**OURS)
    if family == "ours-maps":
        return cf.ConvNeXtV2(**OURS, features_only=True, out_norms=True, out_indices=(2, 0, 3, 2))
    if family == "ours-no-head":
        return cf.ConvNeXtV2(**OURS | {"num_classes": 0})
    if family.startswith("upstream"):
        from tests.frozen.written_like_upstream import ConvNeXtV2

        return ConvNeXtV2(v1=family.endswith("v1"))
    if family.startswith("timm"):
        return _timm(family)
    return _transformers(*family.split("-")[1:])


def _timm(family):
    peers.timm()
    from timm.models._features import FeatureDictNet, FeatureListNet
    from timm.models.convnext import ConvNeXt

    if family in TIMM_FORMS:
        return ConvNeXt(**(TIMM | TIMM_FORMS[family]))
    cls = FeatureListNet if family == "timm-list" else FeatureDictNet
    return cls(ConvNeXt(**TIMM, **V2), out_indices=(0, 2), flatten_sequential=True)


def _transformers(version, kind):
    library = peers.transformers()
    prefix = {"v1": "ConvNext", "v2": "ConvNextV2"}[version]
    options = dict(hidden_sizes=[8, 16, 24, 40], depths=[1, 1, 2, 1], num_labels=5)
    if version == "v1":
        options["layer_scale_init_value"] = 0.3
    if kind == "backbone":
        options["out_features"] = ["stage2", "stage4"]
    name = {"model": "Model", "classifier": "ForImageClassification", "backbone": "Backbone"}[kind]
    return getattr(library, prefix + name)(getattr(library, f"{prefix}Config")(**options))


def flat(result):
    """The tensors of whatever a model returns, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    if hasattr(result, "to_tuple"):
        result = result.to_tuple()
    return [t for part in (result.values() if isinstance(result, dict) else result) for t in flat(part)]


def images(n=3, h=67, w=99, dtype=torch.float32):
    return torch.randn(n, 3, h, w, generator=torch.Generator().manual_seed(1)).to(dtype)


def error(got, want):
    """The largest deviation, divided by the largest number."""
    assert got.shape == want.shape
    return ((got.double() - want.double()).abs().max() / want.double().abs().max()).item()


def frozen(family="ours", **options):
    return cf.freeze(build(family), **options)


def exact(model):
    """The model in float64, which runs on the reference."""
    return copy.deepcopy(model).double()
