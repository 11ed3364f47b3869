"""torch.fx, and torchvision's feature extraction, which is built on it: blocks, stems and norms are leaves."""

import copy

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast.models.convnextv2_sparse import SparseConvNeXtV2
from convnextv2_fast.testing import randomise
from tests import peers
from tests.adapters import written_like_upstream
from tests.adapters.test_timm import V2, small

SMALL = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}


def accelerated(model):
    cf.accelerate(model)
    return model


MODELS = {
    "ours": lambda: cf.ConvNeXtV2(num_classes=5, drop_path_rate=0.5, **SMALL),
    "ours, features": lambda: cf.ConvNeXtV2(features_only=True, out_norms=True, **SMALL),
    "timm": lambda: accelerated(small(**V2)),
    "timm, V1": lambda: accelerated(small(ls_init_value=0.3, conv_mlp=True)),
    "upstream": lambda: accelerated(written_like_upstream.ConvNeXtV2()),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_traced_model_is_the_model(name, training):
    """Bitwise, in graphs without a trace of what is inside a block; with hooks and replaced modules inside one, too."""
    model, x = randomise(MODELS[name](), 0).train(training), torch.randn(2, 3, 64, 64)
    traced = torch.fx.symbolic_trace(model)
    assert not any("fc1" in str(node.target) or "pwconv1" in str(node.target) for node in traced.graph.nodes)
    act = next(m for m in model.modules() if type(m).__name__ == "GELU")  # timm has a class of its own
    for hooked in (False, True):
        if hooked:
            act.register_forward_hook(lambda m, args, y: 2 * y)
        results = []
        for m in (model, traced):
            torch.manual_seed(1)
            y = m(x)
            results.append(y if isinstance(y, list) else [y])
        for got, want in zip(*results, strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("name, node", [("ours", "stages.1"), ("timm", "stages.2.blocks.0"), ("timm", "stem")])
def test_feature_extraction(name, node):
    peers.torchvision()
    from torchvision.models.feature_extraction import create_feature_extractor

    model, x, seen = MODELS[name]().eval(), torch.randn(1, 3, 64, 64), []
    extractor = create_feature_extractor(model, {node: "map"})
    model.get_submodule(node).register_forward_hook(lambda m, args, y: seen.append(y))
    model(x)
    assert torch.equal(extractor(x)["map"], seen[0])


def test_a_block_by_itself_is_traced_through():
    for block in (MODELS["ours"]().stages[0][0], MODELS["timm"]().stages[0].blocks[0]):
        x = torch.randn(1, 8, 9, 9)
        torch.testing.assert_close(torch.fx.symbolic_trace(block.eval())(x), block(x))


def test_hooks_on_a_block_run_once():
    """At the time of tracing they have run on the proxy, and so are in the graph."""
    model, x = MODELS["ours"]().eval(), torch.randn(1, 3, 64, 64)
    plain = copy.deepcopy(model)
    model.stages[0][0].register_forward_hook(lambda m, args, y: y.flip(1))
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), model(x))
    assert (model(x) - plain(x)).abs().max() > 1e-4


def test_the_sparse_models_say_that_they_cannot_be_traced():
    for model in (SparseConvNeXtV2(**SMALL), cf.fcmae.FCMAE(init="std02", decoder_embed_dim=8, **SMALL)):
        with pytest.raises(
            cf.UnsupportedInputError,
            match=r"torch\.fx and torch\.jit\.trace cannot trace the sparse encoder.*torch\.export",
        ):
            torch.fx.symbolic_trace(model)
