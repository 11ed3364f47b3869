"""Every family of models, frozen, against itself as it was and against float64."""

import copy

import pytest
import torch

import convnextv2_fast as cf
from tests.frozen.subjects import FAMILIES, ONE_OF_EACH, build, error, exact, flat, images
from tests.native.isas import needs_library

pytestmark = [pytest.mark.cpu_kernel, needs_library]
EPS = {dtype: torch.finfo(dtype).eps for dtype in (torch.float32, torch.bfloat16, torch.float16)}


@pytest.mark.parametrize(
    ("family", "accelerate"),
    [(family, False) for family in FAMILIES] + [(family, True) for family in (*ONE_OF_EACH, "timm-v1")],
)
def test_equals_itself(family, accelerate):
    """Within the library's rule: at most twice the error of the model as it was, plus 4 eps; and nothing is left of the
    program afterwards."""
    model, x = build(family, accelerate=accelerate), images()
    names, classes = list(model.state_dict()), [type(m) for m in model.modules()]
    with torch.no_grad():
        before, want = flat(model(x)), flat(exact(model)(x.double()))
        assert cf.freeze(model) is model and cf.is_frozen(model)
        after = flat(model(x))
        assert list(model.state_dict()) == names
        assert not cf.is_frozen(cf.unfreeze(model)) and [type(m) for m in model.modules()] == classes
        again = flat(model(x))
    assert not [name for name, _ in model.named_buffers() if "frozen" in name]
    for a, b, w, c in zip(after, before, want, again, strict=True):
        assert (a.dtype == b.dtype and a.stride() == b.stride()) or family.startswith(("timm", "upstream", "transf"))
        assert error(a, b) < 5e-6
        assert error(a, w) <= 2 * error(b, w) + 4 * EPS[torch.float32]
        assert torch.equal(b, c)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["ours", "ours-maps", "timm-v1", "transformers-v2-model"])
def test_half_precision(family, dtype):
    model, x = build(family, accelerate=True).to(dtype), images(dtype=dtype)
    with torch.no_grad():
        before, want = flat(model(x)), flat(exact(model)(x.double()))
        after = flat(cf.freeze(model)(x))
    for a, b, w in zip(after, before, want, strict=True):
        assert a.dtype == dtype and error(a, w) <= 2 * error(b, w) + 4 * EPS[dtype]


@pytest.mark.parametrize("size", ["atto", "nano"])
def test_sizes(size):
    model, x = getattr(cf, f"convnextv2_{size}")(drop_path_rate=0.2).eval(), images(1, 64, 64)
    with torch.no_grad():
        before, want = model(x), exact(model)(x.double())
        after = cf.freeze(model)(x)
    assert error(after, want) <= 2 * error(before, want) + 4 * EPS[torch.float32]


def test_methods_of_our_model():
    model, x = build("ours"), images()
    with torch.no_grad():
        features, maps = model.forward_features(x), model.forward_features_list(x)
        cf.freeze(model)
        assert error(model.forward_features(x), features) < 5e-6
        for got, want in zip(model.forward_features_list(x), maps, strict=True):
            assert torch.equal(got, want) and got.stride() == want.stride()


def test_a_stage_that_is_asked_for_twice():
    """Its two maps are not the same memory."""
    maps = cf.freeze(build("ours-maps"))(images())
    want = maps[3].clone()
    maps[0].zero_()
    assert torch.equal(maps[3], want) and want.any()


@pytest.mark.parametrize("family", ["timm-v2", "timm-norm-first", "timm-no-pool"])
def test_methods_of_timm(family):
    model, x = build(family), images()
    with torch.no_grad():
        features, logits = model.forward_features(x), model(x)
        cf.freeze(model)
        assert error(model.forward_features(x), features) < 5e-6
        assert error(model.forward_head(features), logits) < 5e-6
        assert model.forward_head(features, pre_logits=True).shape[:2] == (3, 40)


def test_hidden_states_of_transformers():
    """Also of a model whose hidden states were asked for before: its stages have transformers' hooks then."""
    model, x = build("transformers-v2-classifier"), images()
    with torch.no_grad():
        want = model(x, output_hidden_states=True)
        cf.freeze(model)
        got, some = model(x, output_hidden_states=True), model(x, output_hidden_states=[1])
        tuple_ = model(x, return_dict=False)
    assert list(got) == list(want) and len(got.hidden_states) == 5
    for a, b in zip(got.hidden_states, want.hidden_states, strict=True):
        assert error(a, b) < 5e-6
    assert [h is not None for h in some.hidden_states] == [False, True, False, False, False]
    assert torch.equal(tuple_[0], got.logits)


def test_parts_of_transformers():
    """The embeddings and the encoder of a frozen model do what they did, on their own too."""
    model, x = build("transformers-v1-model"), images(2, 64, 96)
    with torch.no_grad():
        features = model.embeddings(x)
        want = model.encoder(features).last_hidden_state
        cf.freeze(model)
        assert error(model.embeddings(x), features) < 5e-6
        for given in (features, features.contiguous(), features[:1], features[:, :, :8, :8]):
            got = model.encoder(given).last_hidden_state
            if given.shape == features.shape:
                assert error(got, want) < 5e-6
        with pytest.raises(cf.UnsupportedInputError, match=r"wants maps \[N, 8, H, W\]"):
            model.encoder(x)


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_inference_mode(family):
    x = images()
    want = build(family)(x)
    with torch.inference_mode():
        made = cf.freeze(build(family))
        for got, w in zip(flat(made(x)), flat(want), strict=True):
            assert error(got, w) < 5e-6
    with torch.no_grad():
        model = build(family)
        for call in (copy.deepcopy(made), cf.freeze(model)):
            assert error(flat(call(x))[0], flat(want)[0]) < 5e-6
