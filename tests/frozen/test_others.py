"""Other parameters, modules and settings in the place of those that a model was frozen with: an error at the call."""

import copy
import pickle

import pytest
import torch
from torch import nn

import convnextv2_fast as cf
from tests.frozen.subjects import frozen, images
from tests.native.isas import needs_library

pytestmark = [pytest.mark.cpu_kernel, needs_library]

OTHERS = {
    "add_module": ("ours", lambda m: m.add_module("head", nn.Linear(40, 5).eval())),
    "register_module": ("timm-v2", lambda m: m.register_module("head", nn.Identity().eval())),
    "del": ("ours", lambda m: delattr(m, "head")),
    "a module's module": ("timm-v2", lambda m: m.head.reset(7)),
    "a block": ("upstream", lambda m: m.stages[0].__setitem__(0, nn.Identity().eval())),
    "a parameter": ("ours", lambda m: setattr(m.norm, "weight", nn.Parameter(torch.ones(40)))),
    "no parameter": ("ours", lambda m: setattr(m.head, "bias", None)),
    "a stage": ("transformers-v2-model", lambda m: m.encoder.stages[1].layers.append(nn.Identity().eval())),
    "a stem": ("transformers-v2-model", lambda m: setattr(m.embeddings, "patch_embeddings", nn.Conv2d(3, 8, 4, 4))),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_object(what):
    family, act = OTHERS[what]
    model = frozen(family)
    model(images())
    act(model)
    with pytest.raises(cf.UnsupportedInputError, match=r"frozen: other parameters or modules .*freeze\(model\) again"):
        model(images())


@pytest.mark.parametrize("release", [False, True])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), copy.copy])
def test_a_copy_looks_at_its_own(copied, release):
    model = frozen("ours", release_weights=release)
    other, want = copied(model), model(images())
    assert torch.equal(other(images()), want)
    other.stages[0].add_module("0", nn.Identity())
    with pytest.raises(cf.UnsupportedInputError, match="other parameters or modules"):
        other(images())


@pytest.mark.filterwarnings("ignore")
def test_quantised_afterwards():
    model = torch.ao.quantization.quantize_dynamic(frozen(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(cf.UnsupportedInputError, match="other parameters or modules"):
        model(images())


@pytest.mark.parametrize("family", ["ours", "transformers-v2-model"])
@pytest.mark.parametrize("count", [1, None])
def test_functional_call(family, count):
    model, x = frozen(family), images()
    model(x)
    zeros = {name: torch.zeros_like(p) for name, p in list(model.named_parameters())[:count]}
    with pytest.raises(cf.UnsupportedInputError, match=r"functional_call wants an unfrozen model"):
        torch.func.functional_call(model, zeros, (x,))
    model(x)


def test_other_outputs():
    model = frozen("ours-maps")
    with pytest.raises(cf.UnsupportedInputError, match=r"is frozen: .*out_indices.*unfreeze"):
        model.out_indices = (0,)
    assert model.out_indices == (2, 0, 3, 2)


@pytest.mark.parametrize("given", [None, [torch.zeros(1, 3, 64, 64)], 3])
@pytest.mark.parametrize("family", ["ours", "timm-v2", "upstream"])
def test_what_is_no_image(family, given):
    with pytest.raises(cf.UnsupportedInputError, match=rf"wants images .*got {type(given).__name__}"):
        frozen(family)(given)


@pytest.mark.parametrize("family", ["ours", "transformers-v2-model"])
def test_a_program_on_another_device(family):
    model = frozen(family)
    for part in model.modules():
        if "frozen_program" in vars(part):
            part.frozen_program = part.frozen_program.to("meta")
    with pytest.raises(cf.UnsupportedInputError, match=r"its program is on meta.*map_location='cpu'"):
        model(images())
