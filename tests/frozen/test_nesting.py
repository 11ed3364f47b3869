"""A frozen model in another, and shallow copies: no two of them share what one of them may unfreeze."""

import copy

import pytest
import torch

import convnextv2_fast as cf
from tests.frozen.subjects import build, flat, frozen, images
from tests.native.isas import needs_library

pytestmark = [pytest.mark.cpu_kernel, needs_library]


@pytest.mark.parametrize("outer_first", [False, True])
@torch.no_grad()
def test_only_one_of_two_nested_models_can_be_frozen(outer_first):
    model, x = build("transformers-v2-classifier", accelerate=True), images()
    classes = [type(m) for m in model.modules()]
    first, second = (model, model.convnextv2) if outer_first else (model.convnextv2, model)
    want = flat(cf.freeze(first)(x))[0]
    with pytest.raises(
        cf.UnsupportedInputError, match=r"is frozen already: .* holds a frozen one, or lies in one; .*unfreeze"
    ):
        cf.freeze(second)
    assert not cf.is_frozen(second) and torch.equal(flat(cf.freeze(first)(x))[0], want)
    cf.unfreeze(first)
    assert [type(m) for m in model.modules()] == classes
    assert cf.is_frozen(cf.freeze(second))


@pytest.mark.parametrize("family", ["ours", "timm-v2", "upstream"])
@torch.no_grad()
def test_a_shallow_copy_is_unfrozen_alone(family):
    model, x = frozen(family), images()
    want, other = model(x), copy.copy(model)
    assert not cf.is_frozen(cf.unfreeze(other))
    assert torch.equal(model(x), want) and torch.allclose(other(x), want, atol=1e-4)


def test_a_shallow_copy_that_would_share_frozen_modules():
    with pytest.raises(cf.UnsupportedInputError, match=r"copy\.deepcopy"):
        copy.copy(frozen("transformers-v2-model"))
