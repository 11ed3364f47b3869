"""timm's optimizer factory on the models of this library: weight decay and learning rate of every parameter."""

import pytest
import torch
from torch import nn

import convnextv2_fast as cf
from convnextv2_fast.checkpoints.convert import canonicalise
from convnextv2_fast.models.convnextv2_sparse import SparseConvNeXtV2
from convnextv2_fast.models.fcmae import FCMAE
from convnextv2_fast.train.optim import LayerDecayValueAssigner
from tests import peers

DEPTHS = (1, 2, 3, 1)
SIZES = {"depths": DEPTHS, "dims": (8, 16, 24, 40)}
MODELS = {
    "dense": lambda: cf.ConvNeXtV2(**SIZES, num_classes=5),
    "backbone": lambda: cf.ConvNeXtV2(**SIZES, features_only=True, out_norms=True),
    "sparse": lambda: SparseConvNeXtV2(**SIZES, D=2),
    "fcmae": lambda: FCMAE(**SIZES, decoder_embed_dim=16, init="std02"),
}


def grouped(model: nn.Module, **options) -> dict[str, tuple[float, float]]:
    """Weight decay and learning rate factor of every parameter, by the name it has in upstream's dense model."""
    peers.timm()
    from timm.optim import create_optimizer_v2

    optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.05, **options)
    canonical = {own: name for name, own in canonicalise(model.state_dict()).names.items()}
    names = {id(p): canonical[n] for n, p in model.named_parameters()}
    return {
        names[id(p)]: (g["weight_decay"], g.get("lr_scale", 1.0)) for g in optimizer.param_groups for p in g["params"]
    }


@pytest.mark.parametrize("options", [{}, {"layer_decay": 0.8}], ids=["plain", "layer_decay"])
def test_the_dense_model_has_the_groups_of_timms(options):
    theirs = peers.timm().create_model("convnextv2_atto", num_classes=5, **SIZES)
    assert grouped(MODELS["dense"](), **options) == grouped(theirs, **options)


@pytest.mark.parametrize("options", [{}, {"layer_decay": 0.8}], ids=["plain", "layer_decay"])
@pytest.mark.parametrize("name", ["sparse", "fcmae"])
def test_vectors_take_no_weight_decay_in_whatever_shape_they_are_stored(name, options):
    model = MODELS[name]()
    dense = canonicalise(model.state_dict()).tensors
    for parameter, (decay, _) in grouped(model, **options).items():
        bare = dense[parameter].ndim == 1 or parameter.endswith((".gamma", ".beta", "mask_token"))
        assert (decay == 0) == bare, parameter


@pytest.mark.parametrize("name", MODELS)
def test_layers_are_upstreams(name):
    """`get_num_layer_for_convnext_single` of upstream's optim_factory: a layer a block, stem first, the rest last."""
    of = LayerDecayValueAssigner.of(0.8, DEPTHS, "single")
    scales = {n: scale for n, (_, scale) in grouped(MODELS[name](), layer_decay=0.8).items()}
    # timm counts from the last layer that there is, and the sparse encoder ends with its last block
    last = of.get_scale(of.get_layer_id("stages.3.0.norm.weight" if name == "sparse" else "norm.weight"))
    for parameter, scale in scales.items():
        assert scale == pytest.approx(of.get_scale(of.get_layer_id(parameter)) / last), parameter
    assert len(set(scales.values())) == sum(DEPTHS) + (1 if name == "sparse" else 2)


@pytest.mark.parametrize("name", ["dense", "fcmae"])
def test_coarse_layers_are_stages(name):
    peers.timm()
    from timm.models import group_parameters

    model = MODELS[name]()
    layers = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    canonical = {own: full for full, own in canonicalise(model.state_dict()).names.items()}
    for own, layer in layers.items():
        part, number, *_ = (*canonical[own].split("."), "")
        stem = canonical[own].startswith("downsample_layers.0.")
        assert layer == (0 if stem else int(number) + 1 if part in ("stages", "downsample_layers") else 5), own


def test_names_are_those_of_the_model_itself():
    for make in MODELS.values():
        model = make()
        parameters = dict(model.named_parameters())
        assert all(parameters[n].ndim > 1 for n in model.no_weight_decay())
    assert "mask_token" in model.no_weight_decay()


def test_what_timms_training_scripts_call():
    model = MODELS["dense"]()
    assert model.get_classifier() is model.head
    model.reset_classifier(3)
    model.set_grad_checkpointing()
    assert model.get_classifier().out_features == 3 and model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
