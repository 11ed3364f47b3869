"""Parameter groups, layer-wise decay and the schedule: upstream's numbers."""

import math

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast.train import FinetuneConfig, optim


def test_layers_of_single_blocks():
    depths = [3, 3, 9, 3]
    names = {
        "downsample_layers.0.0.weight": 0,
        "stages.0.0.dwconv.weight": 1,
        "stages.0.2.grn.gamma": 3,
        "downsample_layers.1.1.weight": 4,
        "stages.1.0.norm.bias": 4,
        "downsample_layers.3.0.weight": 16,
        "stages.3.2.pwconv1.weight": 18,
        "norm.weight": 19,
        "head.bias": 19,
    }
    assert {n: optim.get_num_layer_for_convnext_single(n, depths) for n in names} == names


def test_layers_of_groups():
    names = {
        "downsample_layers.0.1.bias": 0,
        "downsample_layers.1.0.weight": 2,
        "downsample_layers.2.0.weight": 3,
        "downsample_layers.3.0.weight": 12,
        "stages.0.2.dwconv.weight": 1,
        "stages.1.1.dwconv.weight": 2,
        "stages.2.0.dwconv.weight": 3,
        "stages.2.26.dwconv.weight": 11,
        "stages.3.0.dwconv.weight": 12,
        "head.weight": 13,
    }
    assert {n: optim.get_num_layer_for_convnext(n) for n in names} == names


@pytest.mark.parametrize(("kind", "layers"), [("single", 12), ("group", 12)])
def test_decay_of_layers(kind, layers):
    of = optim.LayerDecayValueAssigner.of(0.5, [2, 2, 6, 2], kind)
    assert of.values == [0.5 ** (layers + 1 - i) for i in range(layers + 2)] and of.get_scale(layers + 1) == 1.0
    with pytest.raises(ValueError, match="'single' or 'group'"):
        optim.LayerDecayValueAssigner([1.0], layer_decay_type="double")


def test_groups_cover_every_parameter_once_and_spare_grn():
    model = cf.convnextv2_atto(num_classes=10)
    of = optim.LayerDecayValueAssigner.of(0.9, model.depths, "single")
    groups = optim.get_parameter_groups(model, 0.3, (), of.get_layer_id, of.get_scale)
    found = [id(p) for g in groups for p in g["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters())
    where = {id(p): g for g in groups for p in g["params"]}
    named = dict(model.named_parameters())
    for name in ("stages.0.0.grn.gamma", "stages.0.0.grn.beta", "stages.2.0.norm.weight", "head.bias"):
        assert where[id(named[name])]["weight_decay"] == 0.0
    head = where[id(named["head.weight"])]
    assert (head["weight_decay"], head["lr_scale"]) == (0.3, 1.0)
    assert where[id(named["downsample_layers.0.0.weight"])]["lr_scale"] == 0.9**13


@pytest.mark.parametrize("decay_grn", [True, False])
def test_pretraining_decays_what_upstream_decays(decay_grn):
    mae = cf.fcmae.convnextv2_atto(init="std02")
    bare, rest = optim.pretraining_groups(mae, 0.05, decay_grn)
    kept = {id(p) for p in bare["params"]}
    names = {n for n, p in mae.named_parameters() if id(p) in kept}
    assert bare["weight_decay"] == 0.0 and rest["weight_decay"] == 0.05
    assert ("mask_token" in names) == ("encoder.stages.0.0.grn.gamma" in names) == (not decay_grn)
    assert {"encoder.stages.0.0.dwconv.bias", "proj.bias", "encoder.stages.0.0.norm.ln.weight"} <= names
    assert "encoder.stages.0.0.dwconv.kernel" not in names


def test_optimizer_of_timms():
    model = torch.nn.Linear(3, 2)
    config = FinetuneConfig(data_path="x", opt="sgd", lr=0.1, weight_decay=0.01, momentum=0.5)
    optimizer = optim.create_optimizer(config, model)
    assert isinstance(optimizer, torch.optim.SGD)
    assert sorted(g["weight_decay"] for g in optimizer.param_groups) == [0.0, 0.01]
    assert all(g["momentum"] == 0.5 for g in optimizer.param_groups)
    config = FinetuneConfig(data_path="x", lr=0.1, weight_decay=0.01, opt_eps=1e-6, opt_betas=[0.8, 0.9])
    group = optim.create_optimizer(config, model).param_groups[0]
    assert (group["eps"], tuple(group["betas"])) == (1e-6, (0.8, 0.9))


def test_schedule():
    values = [optim.cosine(at, 2, 10, 1.0, 0.1) for at in (0, 1, 2, 6, 10)]
    assert values == pytest.approx([0.0, 0.5, 1.0, 0.1 + 0.9 * 0.5, 0.1])
    assert optim.cosine(3, 2, 10, 1.0) == pytest.approx(0.5 * (1 + math.cos(math.pi / 8)))
    assert optim.cosine(5, 40, 10, 1.0) == 0.125 and optim.cosine(3, 3, 3, 1.0, 0.2) == 0.2
    optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.ones(1))], "lr_scale": 0.5}], lr=1.0)
    optim.set_learning_rate(optimizer, 0.2)
    optim.set_weight_decay(optimizer, 0.3)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.1, 0)
