"""Frozen models under conversions that change no weight, in shared memory, without their weights."""

import copy
import pickle

import pytest
import torch
from torch import nn

import convnextv2_fast as cf
from tests.frozen.subjects import ONE_OF_EACH, build, flat, frozen, images
from tests.native.isas import needs_library

pytestmark = [pytest.mark.cpu_kernel, needs_library]


NO_OPS = {
    "to": lambda m, dtype: m.to(dtype),
    "a parent's": lambda m, dtype: nn.Sequential(m).to(dtype),
    "a part's": lambda m, dtype: [part.to(dtype) for part in m.children()],
    "an average's": lambda m, dtype: torch.optim.swa_utils.AveragedModel(m).to(dtype),
}


@pytest.mark.parametrize("how", NO_OPS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["ours", "transformers-v2-classifier"])
@torch.no_grad()
def test_the_dtype_that_it_has_already(family, dtype, how):
    model, x = cf.freeze(build(family).to(dtype)), images(1, 32, 32, dtype)
    before = flat(model(x))[0]
    NO_OPS[how](model, dtype)
    assert torch.equal(flat(model(x))[0], before)


PARTS = {
    "half": lambda m: m.half(),
    "train": lambda m: m.train(),
    "load": lambda m: m.load_state_dict(m.state_dict()),
    "load_checkpoint": lambda m: cf.load_checkpoint(m, build("transformers-v2-classifier").state_dict()),
}


@pytest.mark.parametrize("what", PARTS)
@pytest.mark.parametrize("part", ["convnextv2", "convnextv2.encoder"])
def test_parts_of_transformers_models_refuse_too(part, what):
    model = frozen("transformers-v2-classifier")
    with pytest.raises(cf.UnsupportedInputError, match=r"is frozen: .*unfreeze"):
        PARTS[what](model.get_submodule(part))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("release", [False, True])
@pytest.mark.parametrize("family", ["ours", "transformers-v2-classifier"])
def test_shared_memory_holds_the_program(family, release):
    model = frozen(family, release_weights=release)
    nn.Sequential(model).share_memory()
    programs = [vars(m)["frozen_program"] for m in model.modules() if "frozen_program" in vars(m)]
    assert programs and all(p.is_shared() for p in programs)
    assert all(p.is_shared() for p in model.parameters() if not p.is_meta)


def test_an_average_of_models_that_is_frozen():
    average = torch.optim.swa_utils.AveragedModel(build("ours"), use_buffers=True)
    cf.freeze(average.module)
    average.update_parameters(build("ours"))
    assert not list(average.module.buffers())


@pytest.mark.parametrize("family", ONE_OF_EACH)
@torch.no_grad()
def test_released_weights(family):
    model, x = build(family), images()
    want = flat(cf.freeze(copy.deepcopy(model))(x))[0]
    model = cf.freeze(model, release_weights=True)
    held = sum(p.numel() for p in model.parameters() if p.device.type != "meta")
    assert held == sum(p.numel() for p in model.classifier.parameters()) + 80 if "trans" in family else held == 0
    for call in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(flat(call.to("cpu")(x))[0], want)
    for act in (model.state_dict, lambda: cf.unfreeze(model), lambda: cf.freeze(model)):
        with pytest.raises(cf.UnsupportedInputError, match=r"weights were released.*Build the model again"):
            act()


def test_released_head_of_timm():
    model = frozen("timm-v2", release_weights=True)
    with torch.no_grad(), pytest.raises(cf.UnsupportedInputError, match="head cannot run alone"):
        model.forward_head(model.forward_features(images()))
    with torch.no_grad(), pytest.raises(cf.UnsupportedInputError, match="stages cannot run one by one"):
        model.forward_intermediates(images())
