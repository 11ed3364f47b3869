"""Conversion is exact, in every direction, and refuses what it does not know."""

import pytest
import torch

from convnextv2_fast.checkpoints import (
    CheckpointError,
    convert_state_dict,
    detect_format,
    load_checkpoint,
    remap_checkpoint_keys,
)
from convnextv2_fast.models.convnextv2 import ConvNeXtV2

from ..golden import vectors
from . import states
from .states import SOURCES, same

FORMATS = list(SOURCES)
DENSE = [f for f in FORMATS if f != "fcmae"]
DECODER = ("decoder.", "proj.", "pred.", "mask_token")


def options(target: str) -> dict:
    return {"conv_mlp": False} if target == "timm" else {}


@pytest.mark.parametrize("target", DENSE)
@pytest.mark.parametrize("source", DENSE)
def test_dense_formats_round_trip(source, target):
    """There, every name and shape is what that library's own state dict has; back, every bit is."""
    state = SOURCES[source]()
    there = convert_state_dict(state, target=target, **options(target))
    expected = SOURCES[target]()
    assert {n: x.shape for n, x in there.items()} == {n: x.shape for n, x in expected.items()}
    assert detect_format(there) == target
    same(convert_state_dict(there, target=source, **options(source)), state)


@pytest.mark.parametrize("dense", DENSE)
def test_fcmae_round_trips_its_encoder(dense):
    state = SOURCES["fcmae"]()
    encoder = {n: x for n, x in state.items() if not n.startswith(DECODER)}
    there = convert_state_dict(state, target=dense, drop_extra=True, **options(dense))
    assert len(there) == len(encoder) == len(state) - 15 and detect_format(there) == dense
    same(convert_state_dict(there, target="fcmae"), encoder)


@pytest.mark.parametrize("dense", DENSE)
def test_dense_through_fcmae(dense):
    """A dense file's final norm and head have no place in FCMAE; the rest comes back."""
    state = SOURCES[dense]()
    there = convert_state_dict(state, target="fcmae", drop_extra=True)
    assert all(n.startswith("encoder.") for n in there) and len(there) == len(state) - 4
    back = convert_state_dict(there, target=dense, **options(dense))
    same(back, {n: state[n] for n in back})
    with pytest.raises(CheckpointError, match=r"fcmae has no place for .*drop_extra"):
        convert_state_dict(state, target="fcmae")


def test_fcmae_keeps_its_decoder_and_dense_formats_refuse_it():
    state = SOURCES["fcmae"]()
    same(convert_state_dict(state, target="fcmae"), state)
    for target in DENSE:
        with pytest.raises(CheckpointError, match=r"no place for mask_token, .*drop_extra"):
            convert_state_dict(state, target=target, **options(target))


@pytest.mark.parametrize("conv_mlp", [False, True])
def test_timm_linears_and_convolutions(conv_mlp):
    state = states.timm(conv_mlp)
    dense = convert_state_dict(state)
    assert dense["stages.0.0.pwconv1.weight"].shape == (32, 8)
    same(convert_state_dict(dense, target="timm", conv_mlp=conv_mlp), state)
    states.timm_model(conv_mlp).load_state_dict(convert_state_dict(dense, target="timm", conv_mlp=conv_mlp))


@pytest.mark.parametrize(
    ("width", "conv_mlp"),
    [(40, True), (48, True), (64, True), (80, True), (96, False), (128, False), (192, False), (352, False)],
)
def test_timm_shapes_follow_the_eight_sizes(width, conv_mlp):
    dims = [width * 2**i for i in range(4)]
    shapes = states.upstream_shapes(depths=(1, 1, 1, 1), dims=dims)
    state = {n: torch.empty(s, device="meta") for n, s in shapes.items()}
    converted = convert_state_dict(state, target="timm")
    assert converted["stages.3.blocks.0.mlp.fc2.weight"].ndim == (4 if conv_mlp else 2)


def test_other_widths_need_conv_mlp_for_timm():
    with pytest.raises(ValueError, match=r"\(8, 16, 24, 40\): pass conv_mlp"):
        convert_state_dict(states.upstream(), target="timm")
    with pytest.raises(ValueError, match="conv_mlp is for target 'timm'"):
        convert_state_dict(states.upstream(), target="mmpretrain", conv_mlp=True)


# ---- against MinkowskiEngine and upstream's own remapping ----


def test_remap_is_upstreams():
    """Names, order, shapes and every tensor's fingerprint of what upstream's function makes of the golden FCMAE."""
    got = remap_checkpoint_keys(vectors.state_dict())
    want = vectors.names()["remap"]
    assert list(got) == list(want)
    for name, x in got.items():
        shape = want[name]["shape"]
        if name.startswith("decoder.0.grn"):  # upstream: 6 dimensions, see the function's docstring
            assert shape == [1, 1, *x.shape]
        else:
            assert list(x.shape) == shape, name
        fingerprint = vectors.fingerprint(x.reshape(shape), name)
        assert fingerprint == pytest.approx(want[name]["fingerprint"], rel=1e-12, abs=1e-12), name
    same(remap_checkpoint_keys(got), got)
    same(convert_state_dict(got, target="fcmae"), vectors.state_dict())


def test_remap_of_a_sparse_block_is_upstreams():
    data = vectors.arrays("op_block16")
    sparse = {f"encoder.stages.0.0.{n[3:]}": x for n, x in data.items() if n.startswith("sd/")}
    dense = {f"stages.0.0.{n[6:]}": x for n, x in data.items() if n.startswith("remap/")}
    assert len(sparse) == 10
    same(remap_checkpoint_keys(sparse), dense)
    same(convert_state_dict(dense, target="fcmae"), sparse)


def test_kernel_layouts_are_minkowskis():
    depthwise, strided = vectors.arrays("op_dwconv7_blocky"), vectors.arrays("op_conv_k2s2_blocky")
    sparse = {
        "stages.0.0.dwconv.kernel": depthwise["kernel"],
        "stages.0.0.dwconv.bias": depthwise["bias"],
        "downsample_layers.1.1.kernel": strided["kernel"],
        "downsample_layers.1.1.bias": strided["bias"],
    }
    dense = convert_state_dict(sparse)
    assert torch.equal(dense["stages.0.0.dwconv.weight"], depthwise["weight_conv2d"])
    assert torch.equal(dense["downsample_layers.1.1.weight"], strided["weight_conv2d"])
    assert dense["stages.0.0.dwconv.bias"].shape == (12,)
    same(convert_state_dict(dense, target="fcmae"), {f"encoder.{n}": x for n, x in sparse.items()})


# ---- what is read beside each library's own form ----


@pytest.mark.parametrize("shape", [(-1,), (1, -1), (1, 1, 1, -1)])
@pytest.mark.parametrize("source", DENSE)
def test_grn_of_any_shape(source, shape):
    state = SOURCES[source]()
    other = {n: x.reshape(shape) if ".grn." in n else x for n, x in state.items()}
    same(convert_state_dict(other, target=source, **options(source)), state)


def test_released_fcmae_encoders_are_dense_without_norm_and_head():
    state = states.upstream(classes=None)
    released = {n: x.reshape(1, -1) if "grn" in n else x for n, x in state.items()}
    assert detect_format(released) == "upstream"
    same(convert_state_dict(released), state)


@pytest.mark.parametrize(
    "prefix", ["", "encoder.", "module.encoder.", "module.", "_orig_mod.encoder.", "model.encoder."]
)
def test_fcmae_with_and_without_encoder_prefix(prefix):
    state = {n: x for n, x in SOURCES["fcmae"]().items() if n.startswith("encoder.")}
    named = {prefix + n.removeprefix("encoder."): x for n, x in state.items()}
    assert detect_format(named) == "fcmae"
    same(convert_state_dict(named, target="fcmae"), state)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "backbone.", "state.0.", "a"]
)
@pytest.mark.parametrize("source", FORMATS)
def test_prefixes_of_wrappers(source, prefix):
    state = SOURCES[source]()
    named = {prefix + n: x for n, x in state.items()}
    if prefix == "a":
        with pytest.raises(CheckpointError):
            detect_format(named)
        return
    assert detect_format(named) == source
    same(convert_state_dict(named, target=source, **options(source)), state)


def test_wrappers_inside_names():
    state = states.upstream()
    named = {n.replace("stages.1.", "stages.1._checkpoint_wrapped_module."): x for n, x in state.items()}
    same(convert_state_dict(named), state)


def test_a_prefix_on_a_part_of_the_body_is_not_removed():
    state = states.upstream()
    named = {("module." if n.startswith("stages.0") else "") + n: x for n, x in state.items()}
    with pytest.raises(CheckpointError, match=r"no place for module\.stages\.0\.0"):
        convert_state_dict(named)


def test_mmpretrain_backbone_alone_and_in_a_detector():
    state = states.mmpretrain(classifier=False)
    dense = convert_state_dict({n.removeprefix("backbone."): x for n, x in state.items()}, source="mmpretrain")
    same(convert_state_dict(state), dense)
    assert {"norm0.weight", "norm3.bias"} <= set(dense) and "norm.weight" not in dense
    same(convert_state_dict(dense, target="mmpretrain"), state)
    detector = state | {"neck.lateral_convs.0.conv.weight": torch.zeros(2), "roi_head.fc.weight": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=r"neck\.lateral_convs\.0\.conv\.weight, roi_head"):
        convert_state_dict(detector)
    same(convert_state_dict(detector, ignore=["neck.", "roi_head."]), dense)


def test_mmpretrain_norm3_is_never_taken_for_the_other_one():
    one = {
        n: x
        for n, x in convert_state_dict(states.mmpretrain(classifier=False)).items()
        if "norm3" in n or n[:4] != "norm"
    }
    for state in (one, one | {"norm0.weight": torch.ones(8), "norm.weight": torch.ones(40)}):
        with pytest.raises(CheckpointError, match=r"mmpretrain has no place for norm3\.weight"):
            convert_state_dict(state, target="mmpretrain")


def test_mmpretrain_convolutional_pointwise_weights():
    state = states.mmpretrain()
    conv = {n: x[:, :, None, None] if "pointwise" in n and x.ndim == 2 else x for n, x in state.items()}
    same(convert_state_dict(conv, target="mmpretrain"), state)


def test_transformers_without_prefix_and_with_old_names():
    state = states.transformers()
    bare = {n.removeprefix("convnextv2."): x for n, x in state.items()}
    old = {n.replace("grn.weight", "grn.gamma").replace("grn.bias", "grn.beta"): x for n, x in state.items()}
    for other in (bare, old):
        assert detect_format(other) == "transformers"
        same(convert_state_dict(other, target="transformers"), state)


def test_transformers_backbone_has_bare_names_and_stage_norms():
    backbone = states.transformers_model("Backbone", out_features=["stage1", "stage2", "stage3", "stage4"])
    state = dict(states.randomise(backbone).state_dict())
    dense = convert_state_dict(state)
    assert torch.equal(dense["norm2.weight"], state["hidden_states_norms.stage3.weight"])
    same(convert_state_dict(dense, target="transformers"), state)


def test_timm_features_only():
    timm = states.peers.timm()
    features = states.randomise(timm.create_model("convnextv2_atto", features_only=True, pretrained=False)).state_dict()
    assert detect_format(features) == "timm" and "stages_3.blocks.1.mlp.fc2.weight" in features
    dense = convert_state_dict(features)
    assert {n: tuple(x.shape) for n, x in dense.items()} == states.upstream_shapes(
        depths=(2, 2, 6, 2), dims=(40, 80, 160, 320), classes=None
    )
    nested = {n.replace("stem_", "stem.").replace("stages_", "stages."): x for n, x in features.items()}
    same(convert_state_dict(dense, target="timm"), nested)


# ---- values ----


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_is_kept(dtype):
    state = {n: x.to(dtype) for n, x in SOURCES["fcmae"]().items()}
    same(
        convert_state_dict(convert_state_dict(state, drop_extra=True), target="fcmae"),
        {n: x for n, x in state.items() if n.startswith("encoder.")},
    )


def test_input_is_left_alone_and_parameters_come_back_as_plain_tensors():
    state = {n: torch.nn.Parameter(x) for n, x in states.upstream().items()}
    before = {n: x.detach().clone() for n, x in state.items()}
    out = convert_state_dict(state, target="transformers")
    assert all(type(x) is torch.Tensor and not x.requires_grad for x in out.values())
    same({n: x.detach() for n, x in state.items()}, before)


def test_order_is_kept():
    state = states.upstream()
    backwards = dict(reversed(state.items()))
    assert list(convert_state_dict(backwards)) == list(backwards)
    assert list(convert_state_dict(convert_state_dict(backwards, target="transformers"))) == list(backwards)


# ---- errors ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {}, "holds no tensors"),
        (lambda s: {"conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(3)}, "no ConvNeXt V2 .*conv1.weight.*mmpre"),
        (lambda s: {"norm.weight": torch.zeros(3), "head.weight": torch.zeros(3, 3)}, "no ConvNeXt V2"),
        (lambda s: s | {"stages.0.0.gamma": torch.zeros(8)}, "looks like upstream.*stages.0.0.gamma.*ConvNeXt V1"),
        (lambda s: s | {"stages.4.0.dwconv.weight": torch.zeros(8, 1, 7, 7)}, r"no place for stages\.4\.0"),
        (lambda s: s | {"module.head.weight": torch.zeros(5, 40)}, "no place for module.head.weight"),
        (lambda s: s | {"stages.0.0.grn.gamma": torch.zeros(4, 8)}, r"stages\.0\.0\.grn\.gamma has shape \(4, 8\)"),
        (lambda s: s | {"stages.0.0.dwconv.weight": torch.zeros(49, 8)}, r"dwconv\.weight has shape \(49, 8\)"),
        (lambda s: s | {"stages.0.0.pwconv1.weight": torch.zeros(32, 8, 3, 3)}, r"pwconv1\.weight has shape"),
        (lambda s: s | {"stages.0.0.norm.weight": torch.zeros(())}, r"norm\.weight has shape \(\)"),
        (lambda s: s | {"head.weight": torch.zeros(5, 40, dtype=torch.int8)}, r"head\.weight is torch\.int8"),
        (lambda s: {"model": s, "epoch": 3}, "'model' is a dict, not a tensor.*'state_dict'"),
        (lambda s: s | {"epoch": 3}, "'epoch' is a int"),
        (lambda s: {0: torch.zeros(3)}, "no flat state dict"),
    ],
)  # fmt: skip
def test_what_is_refused(change, message):
    with pytest.raises(CheckpointError, match=message):
        convert_state_dict(change(states.upstream()))


@pytest.mark.filterwarnings("ignore")  # torch's, of what is new or deprecated
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.zeros(5, 40, dtype=torch.cfloat), "torch.complex64; complex weights are not supported"),
        (lambda: torch.zeros(5, 40).to_sparse(), r"stored as torch\.sparse_coo; .*to_dense\(\)"),
        (lambda: torch.zeros(5, 40).to_sparse_csr(), r"stored as torch\.sparse_csr; .*to_dense\(\)"),
        (lambda: torch.quantize_per_tensor(torch.zeros(5, 40), 0.1, 0, torch.qint8), r"torch\.qint8; quantised"),
        (lambda: torch.nested.nested_tensor([torch.zeros(40)] * 5), "a nested tensor"),
        (lambda: torch.zeros(5, 40, dtype=torch.bool), r"torch\.bool; quantised or integer"),
    ],
)
def test_tensors_that_are_not_dense_floats(tmp_path, make, message):
    state = states.upstream() | {"head.weight": make()}
    with pytest.raises(CheckpointError, match=rf"head\.weight is {message}"):
        convert_state_dict(state)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"a\.pth: head\.weight is {message}"):
        load_checkpoint(ConvNeXtV2(depths=states.DEPTHS, dims=states.DIMS, num_classes=5), tmp_path / "a.pth")


@pytest.mark.parametrize("kernel", [torch.zeros(48, 8), torch.zeros(49, 8, 8), torch.zeros(8, 1, 7, 7)])
def test_malformed_kernels(kernel):
    with pytest.raises(CheckpointError, match=r"encoder\.stages\.0\.0\.dwconv\.kernel has shape"):
        convert_state_dict(SOURCES["fcmae"]() | {"encoder.stages.0.0.dwconv.kernel": kernel}, drop_extra=True)


def test_two_names_for_one_tensor():
    state = states.transformers()
    state["convnextv2.encoder.stages.0.layers.0.grn.gamma"] = torch.zeros(32)
    with pytest.raises(CheckpointError, match=r"stages\.0\.0\.grn\.gamma twice: as .*grn\.weight and as .*grn\.gamma"):
        convert_state_dict(state)


def test_source_can_be_named():
    with pytest.raises(CheckpointError, match="no timm state dict"):
        convert_state_dict(states.upstream(), source="timm")
    # a part of a network is not recognised, but can be converted by name
    part = {"stages.0.0.pwconv1.weight": torch.ones(32, 8)}
    with pytest.raises(CheckpointError, match="no ConvNeXt V2"):
        convert_state_dict(part)
    assert list(convert_state_dict(part, "upstream", "mmpretrain")) == ["backbone.stages.0.0.pointwise_conv1.weight"]
    for bad in ({"source": "keras"}, {"target": "auto"}):
        with pytest.raises(ValueError, match="must be"):
            convert_state_dict(states.upstream(), **bad)
