"""transformers' models, whose embeddings and encoder are a program each, packed anew while they run."""

import collections

import pytest
import torch

import convnextv2_fast as cf
from tests.frozen.subjects import frozen, images
from tests.native.isas import needs_library

pytestmark = [pytest.mark.cpu_kernel, needs_library]


@torch.no_grad()
def test_transformers_packed_anew_within_a_call():
    """A call runs one program, and then the next one; on its own the encoder runs the one that it has."""
    model, x = frozen("transformers-v2-model"), images(1, 32, 32)
    old = model(x).last_hidden_state
    features = model.embeddings(x)
    for p in model.encoder.parameters():
        p.mul_(1.5)
    for p in model.embeddings.parameters():
        p.mul_(1.5)
    cf.freeze(model)
    assert torch.equal(model.encoder(features).last_hidden_state, old)
    new = model(x).last_hidden_state
    assert not torch.equal(new, old) and torch.equal(model.encoder(model.embeddings(x)).last_hidden_state, new)
    mixed = model.encoder(features).last_hidden_state
    assert not torch.equal(mixed, old) and not torch.equal(mixed, new)


class Watched(collections.OrderedDict):
    """Hooks that nobody may take off, not even for a moment, as other threads may be calling the module."""

    def __delitem__(self, key):
        raise AssertionError("a hook was taken off")

    clear = pop = __delitem__


def test_transformers_packed_anew_leaves_its_hooks():
    model, x = frozen("transformers-v2-model"), images(1, 32, 32)
    model(x, output_hidden_states=True)  # from then on the stages have transformers' hooks
    stage = model.encoder.stages[1]
    assert stage._forward_hooks
    stage._forward_hooks = Watched(stage._forward_hooks)
    assert len(cf.freeze(model)(x, output_hidden_states=True).hidden_states) == 5
    stage.register_forward_hook(lambda *_: None)
    with pytest.raises(cf.UnsupportedInputError, match=r"encoder.stages.1 .*has hooks"):
        cf.freeze(model)
