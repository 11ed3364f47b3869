"""A checkpoint is loaded as a whole, or refused with every reason listed and the model as it was."""

import argparse
import logging

import pytest
import torch
from torch import nn

import convnextv2_fast as cf
from convnextv2_fast.checkpoints import CheckpointError, LoadReport, convert_state_dict, load_checkpoint
from convnextv2_fast.checkpoints.containers import EMA_KEYS, PLAIN_KEYS
from convnextv2_fast.models.convnextv2 import ConvNeXtV2
from convnextv2_fast.models.convnextv2_sparse import SparseConvNeXtV2
from convnextv2_fast.models.fcmae import FCMAE

from ..golden import vectors
from . import states
from .states import SOURCES, State, same

HEAD, NORM = ("head.weight", "head.bias"), ("norm.weight", "norm.bias")
FCMAE_SIZES = {"depths": vectors.CONFIG["depths"], "dims": vectors.CONFIG["dims"]}


def dense(**kwargs) -> ConvNeXtV2:
    return ConvNeXtV2(**({"depths": states.DEPTHS, "dims": states.DIMS, "num_classes": states.CLASSES} | kwargs))


def snapshot(model: nn.Module) -> State:
    return {n: x.clone() for n, x in model.state_dict().items()}


def refused(model: nn.Module, checkpoint, message: str, **kwargs) -> str:
    """The error's text; the model has to be as it was."""
    before = snapshot(model)
    with pytest.raises(CheckpointError, match=message) as e:
        load_checkpoint(model, checkpoint, **kwargs)
    same(dict(model.state_dict()), before)
    return str(e.value)


def test_public_names():
    assert cf.load_checkpoint is load_checkpoint and cf.CheckpointError is CheckpointError


# ---- every format into every model ----


@pytest.mark.parametrize("source", [s for s in SOURCES if s != "fcmae"])
def test_dense_model_from_every_dense_format(source):
    state = SOURCES[source]()
    model = dense()
    report = load_checkpoint(model, state)
    same(dict(model.state_dict()), convert_state_dict(state))
    assert report == LoadReport("the state dict", "", source, len(state), (), (), (), None)


def test_dense_model_from_fcmae(caplog):
    """As upstream's fine-tuning: the decoder is dropped, final norm and head stay as initialised, and it is said."""
    model, state = dense(**FCMAE_SIZES), vectors.state_dict()
    before = snapshot(model)
    with caplog.at_level(logging.WARNING, "convnextv2_fast"):
        report = load_checkpoint(model, state)
    assert set(report.left_at_init) == {*HEAD, *NORM} and len(report.dropped) == 15 and report.format == "fcmae"
    assert str(report).splitlines()[-1] == "not used: the FCMAE decoder (15 tensors)"
    assert "left at their initial values: norm.weight, norm.bias, head.weight, head.bias" in caplog.text
    want = convert_state_dict(state, drop_extra=True) | {n: before[n] for n in (*HEAD, *NORM)}
    same(dict(model.state_dict()), want)


@pytest.mark.parametrize("layout", ["fcmae", "upstream", "timm", "transformers", "mmpretrain"])
def test_sparse_models_from_every_format(layout):
    golden = vectors.state_dict()
    encoder = {n: x for n, x in golden.items() if n.startswith("encoder.")}
    options = {"conv_mlp": True} if layout == "timm" else {}
    state = convert_state_dict(golden, target=layout, drop_extra=True, **options)

    sparse = SparseConvNeXtV2(**FCMAE_SIZES, D=2)
    report = load_checkpoint(sparse, state)
    assert report.loaded == len(encoder) and not report.left_at_init
    same(dict(sparse.state_dict()), {n.removeprefix("encoder."): x for n, x in encoder.items()})

    mae = FCMAE(**vectors.CONFIG)
    decoder = {n: x for n, x in snapshot(mae).items() if not n.startswith("encoder.")}
    report = load_checkpoint(mae, state)
    if layout == "fcmae":
        assert not report.left_at_init
        same(dict(mae.state_dict()), golden)
    else:
        assert set(report.left_at_init) == set(decoder) and report.loaded == len(encoder)
        same(dict(mae.state_dict()), encoder | decoder)


def test_sparse_encoder_drops_what_it_has_no_place_for():
    sparse = SparseConvNeXtV2(depths=states.DEPTHS, dims=states.DIMS, D=2)
    report = load_checkpoint(sparse, states.timm(True))
    assert set(report.dropped) == {f"head.{m}.{p}" for m in ("norm", "fc") for p in ("weight", "bias")}
    sparse = SparseConvNeXtV2(**FCMAE_SIZES, D=2)
    assert len(load_checkpoint(sparse, vectors.state_dict()).dropped) == 15


def test_golden_fcmae_computes_the_golden_loss():
    mae = FCMAE(**vectors.CONFIG)
    load_checkpoint(mae, {"model": vectors.state_dict()})
    outputs = vectors.arrays("fcmae_outputs")
    with torch.no_grad():
        loss = mae(vectors.images(), mask=outputs["mask"])[0]
    assert loss.item() == pytest.approx(2.8847791572, rel=1e-5)


def test_models_of_other_libraries():
    """The tables go both ways, so a file of any format fits timm's and transformers' models too."""
    state = states.upstream()
    for model in (states.timm_model(True), states.timm_model(False), states.transformers_model()):
        load_checkpoint(model, state)
        same(convert_state_dict(model.state_dict()), state)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel], ids=["compile", "DataParallel"])
def test_wrapped_models(wrap):
    model, state = dense(), states.upstream()
    load_checkpoint(wrap(model), state)
    same(dict(model.state_dict()), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_values_take_the_models_dtype(dtype):
    state = {n: x.to(dtype) for n, x in states.upstream().items()}
    model = dense()
    load_checkpoint(model, state)
    same(dict(model.state_dict()), {n: x.float() for n, x in state.items()})
    half = dense().to(dtype)
    load_checkpoint(half, states.upstream())
    same(dict(half.state_dict()), state)


def test_memory_layout_and_parameters_stay():
    model = dense().to(memory_format=torch.channels_last)
    parameters = {n: (p, p.data_ptr(), p.stride()) for n, p in model.named_parameters()}
    load_checkpoint(model, states.upstream())
    for n, p in model.named_parameters():
        assert (p.data_ptr(), p.stride()) == parameters[n][1:] and p is parameters[n][0]
        assert p.requires_grad and p.grad is None


# ---- where the state dict lies ----


@pytest.mark.parametrize("key", [*PLAIN_KEYS, *EMA_KEYS])
def test_containers(key):
    state = states.upstream()
    model = dense()
    report = load_checkpoint(model, {key: state, "epoch": 7, "optimizer": {"state": {}, "param_groups": []}})
    assert report.key == key and report.unused_ema is None
    same(dict(model.state_dict()), state)


@pytest.mark.parametrize(
    ("plain", "ema"),
    [("model", "model_ema"), ("state_dict", "state_dict_ema"), ("model", "ema"), ("params", "params_ema")],
)
def test_moving_averages(plain, ema):
    """The weights themselves, unless the average is asked for or is all there is."""
    states_ = {plain: states.upstream(), ema: {n: x + 1 for n, x in states.upstream().items()}}
    model = dense()
    for use_ema, taken in (("auto", plain), (False, plain), (True, ema)):
        report = load_checkpoint(model, states_, use_ema=use_ema)
        same(dict(model.state_dict()), states_[taken])
        assert report.key == taken and report.unused_ema == (None if taken == ema else ema)
        assert ("use_ema=True loads it" in str(report)) == (taken == plain)
    refused(model, {ema: states_[ema]}, "only under .*, and use_ema=False", use_ema=False)
    refused(model, {plain: states_[plain]}, "holds no model_ema, state_dict_ema, ema or params_ema", use_ema=True)
    with pytest.raises(ValueError, match="use_ema must be"):
        load_checkpoint(model, states_, use_ema="yes")


def test_nested_containers():
    model = dense()
    report = load_checkpoint(model, {"state_dict": {"model": {"module." + n: x for n, x in states.upstream().items()}}})
    assert report.key == "state_dict.model"


def test_upstreams_training_checkpoint():
    """`main_finetune.py` saves model, optimizer, epoch, scaler, args and model_ema."""
    state = states.upstream()
    checkpoint = {
        "model": state,
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-3}]},
        "epoch": 3,
        "scaler": {"scale": 1.0},
        "args": argparse.Namespace(lr=1e-3),
        "model_ema": {n: x * 2 for n, x in state.items()},
    }
    model = dense()
    report = load_checkpoint(model, checkpoint)
    assert (report.key, report.unused_ema) == ("model", "model_ema")
    same(dict(model.state_dict()), state)


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ({"optimizer": {"state": {}}, "epoch": 3}, "holds no weights: it holds 'optimizer', 'epoch'; expected"),
        ({"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []}, "holds no weights: it holds 'state', 'param"),
        ({}, "holds no weights: it holds nothing"),
        ({"model": {}}, "holds no weights"),
        ({"model": {"epoch": 3}}, "holds no weights: under model it holds 'epoch'"),
        ({"model": nn.Linear(2, 2), "epoch": 3}, r"'model' is a module; pass its state_dict\(\)"),
        ({"norm.weight": torch.zeros(3), "lr": 0.1}, "'lr' is a float, not a tensor"),
        ({"layer.weight": torch.zeros(3)}, "no ConvNeXt V2 state dict; it holds layer.weight"),
    ],
)
def test_what_holds_no_model(checkpoint, message):
    refused(dense(), checkpoint, message)


def test_wrong_arguments():
    with pytest.raises(TypeError, match="path or a state dict, got a list"):
        load_checkpoint(dense(), [1])
    with pytest.raises(TypeError, match=r"got a ConvNeXtV2; pass its state_dict\(\)"):
        load_checkpoint(dense(), dense())
    with pytest.raises(ValueError, match="head must be"):
        load_checkpoint(dense(), states.upstream(), head="none")


# ---- head, final norm, stage norms, input channels ----


def test_head_of_another_size():
    state = states.upstream(classes=9)
    model = dense()
    before = snapshot(model)
    report = load_checkpoint(model, state)
    assert report.left_at_init == report.dropped == HEAD
    same(dict(model.state_dict()), state | {n: before[n] for n in HEAD})
    text = refused(dense(), state, "does not fit", head="keep")
    assert (
        "head.weight (5, 40) in the model, head.weight (9, 40) in the checkpoint" in text and "head.bias (5,)" in text
    )


def test_head_dropped_on_demand():
    model = dense()
    before = snapshot(model)
    report = load_checkpoint(model, states.timm(False), head="drop")
    assert report.left_at_init == HEAD and report.dropped == ("head.fc.weight", "head.fc.bias")
    assert torch.equal(model.head.weight, before["head.weight"]) and not torch.equal(
        model.norm.bias, before["norm.bias"]
    )


def test_model_without_head():
    model = dense(num_classes=0)
    assert load_checkpoint(model, states.upstream()).dropped == HEAD
    assert load_checkpoint(model, dense(num_classes=0).state_dict(), head="keep").left_at_init == ()


def test_file_without_head():
    state = {n: x for n, x in states.upstream().items() if n not in HEAD}
    assert load_checkpoint(dense(), state).left_at_init == HEAD
    assert "missing from the checkpoint (2):\n    head.weight (5, 40)" in refused(dense(), state, "fit", head="keep")


def test_final_norm_is_missing_only_together_with_the_head():
    state = {n: x for n, x in states.upstream().items() if n not in NORM}
    text = refused(dense(), state, "does not fit")
    assert "missing from the checkpoint (2):\n    norm.weight (40,)\n    norm.bias (40,)" in text
    report = load_checkpoint(dense(), states.upstream(classes=None))
    assert report.left_at_init == (*NORM, *HEAD)


def test_half_a_head_is_an_error():
    state = states.upstream()
    del state["head.bias"]
    assert "missing from the checkpoint (1):\n    head.bias (5,)" in refused(dense(), state, "does not fit")


def test_backbones_with_stage_norms():
    state = states.mmpretrain(classifier=False)
    backbone = dense(features_only=True, out_norms=True)
    report = load_checkpoint(backbone, state)
    assert report.loaded == len(state) and not report.left_at_init and not report.dropped
    some = dense(features_only=True, out_norms=True, out_indices=(1, 3))
    assert load_checkpoint(some, state).dropped == tuple(
        f"backbone.norm{i}.{p}" for i in (0, 2) for p in ("weight", "bias")
    )
    report = load_checkpoint(backbone, states.upstream())
    assert report.dropped == (*NORM, *HEAD) and len(report.left_at_init) == 8
    assert load_checkpoint(dense(), state).left_at_init == (*NORM, *HEAD)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_input_channels_are_adapted_as_timm_does(channels, dtype):
    states.peers.timm()
    from timm.models import adapt_input_conv

    state = {n: x.to(dtype) for n, x in states.upstream().items()}
    name = "downsample_layers.0.0.weight"
    model = dense(in_chans=channels)
    report = load_checkpoint(model, state)
    assert report.adapted == (f"{name} from 3 to {channels} input channels",)
    want = adapt_input_conv(channels, state[name].clone()).float()
    assert torch.equal(model.downsample_layers[0][0].weight.detach(), want)
    refused(dense(in_chans=channels), state, rf"{name} \(8, {channels}, 4, 4\) in the model", adapt_in_chans=False)


def test_only_stems_of_three_channels_are_adapted():
    refused(
        dense(), states.upstream(in_chans=4), r"weight \(8, 3, 4, 4\) in the model, .*weight \(8, 4, 4, 4\) in the ch"
    )


def test_decoders_of_another_size():
    mae = FCMAE(**(vectors.CONFIG | {"decoder_embed_dim": 16}))
    text = refused(mae, vectors.state_dict(), "does not fit")
    assert "of another shape (14)" in text and "mask_token (1, 16, 1, 1) in the model" in text
    report = load_checkpoint(mae, vectors.state_dict(), ignore=["decoder.", "proj.", "pred.", "mask_token"])
    assert len(report.left_at_init) == len(report.dropped) == 15
    deeper = FCMAE(**(vectors.CONFIG | {"decoder_depth": 2}))
    assert "missing from the checkpoint (10):\n    decoder.1" in refused(deeper, vectors.state_dict(), "does not fit")


def test_ignored_tensors_stay_at_their_values():
    model = dense()
    before = snapshot(model)
    checkpoint = {"module." + n: x for n, x in states.upstream().items()} | {"queue": torch.zeros(3)}
    refused(model, checkpoint, "no place for queue")
    report = load_checkpoint(model, checkpoint, ignore=("queue", "module.stages.0.0.grn", "module.norm."))
    kept = ("stages.0.0.grn.gamma", "stages.0.0.grn.beta", *NORM)
    assert set(report.left_at_init) == set(kept) and "queue" in report.dropped
    same(dict(model.state_dict()), states.upstream() | {n: before[n] for n in kept})


# ---- what does not fit ----


def test_every_problem_is_listed_and_nothing_changed():
    state = states.upstream()
    del state["stages.0.0.grn.gamma"], state["downsample_layers.2.1.bias"]
    state["stages.3.1.norm.weight"] = torch.zeros(40)
    state["stages.1.0.pwconv1.bias"] = torch.zeros(60)
    state["stages.1.1.dwconv.weight"] = torch.zeros(16, 1, 5, 5)
    text = refused(dense(), state, "does not fit the model, which was not changed")
    for line in (
        "missing from the checkpoint (2):",
        "stages.0.0.grn.gamma (1, 1, 1, 32)",
        "downsample_layers.2.1.bias (24,)",
        "left over in the checkpoint (1):",
        "stages.3.1.norm.weight (40,)",
        "of another shape (2):",
        "stages.1.0.pwconv1.bias (64,) in the model, stages.1.0.pwconv1.bias (60,) in the checkpoint",
        "stages.1.1.dwconv.weight (16, 1, 7, 7) in the model, stages.1.1.dwconv.weight (16, 1, 5, 5) in the checkpoint",
    ):
        assert "\n" + " " * (2 if line.endswith(":") else 4) + line in text


def test_shapes_are_shown_as_each_side_stores_them():
    state = vectors.state_dict() | {"encoder.stages.0.0.dwconv.kernel": torch.zeros(25, 8)}
    text = refused(dense(**FCMAE_SIZES), state, "does not fit")
    assert "stages.0.0.dwconv.weight (8, 1, 7, 7) in the model, encoder.stages.0.0.dwconv.kernel (25, 8) in the" in text


def test_another_size_of_network_is_named():
    state = states.upstream(depths=(1, 1, 1, 1), dims=(4, 8, 12, 16))
    text = refused(dense(), state, "does not fit")
    assert (
        "checkpoint: depths (1, 1, 1, 1), dims (4, 8, 12, 16); model: depths (1, 2, 1, 1), dims (8, 16, 24, 40)" in text
    )
    for name in dense().state_dict():
        if "head" not in name:
            assert name in text


def test_a_model_that_is_no_convnext():
    with pytest.raises(CheckpointError, match=r"the model \(Linear\) is no ConvNeXt V2"):
        load_checkpoint(nn.Linear(2, 2), states.upstream())


def test_meta_tensors_are_refused():
    with torch.device("meta"):
        model = dense()
    with pytest.raises(CheckpointError, match=r"without storage \(meta device\)"):
        load_checkpoint(model, states.upstream())
    refused(dense(), {n: x.to("meta") for n, x in states.upstream().items()}, "without storage")


def test_report_reads_well():
    model = dense(in_chans=1)
    text = str(load_checkpoint(model, {"model": states.upstream(classes=9), "model_ema": states.upstream()}))
    assert text.splitlines() == [
        "loaded 68 tensors from the state dict (upstream under 'model')",
        "adapted: downsample_layers.0.0.weight from 3 to 1 input channels",
        "left at their initial values: head.weight, head.bias",
        "not used: head.weight, head.bias",
        "a moving average is there too, under 'model_ema': use_ema=True loads it",
    ]
