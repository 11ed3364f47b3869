"""Models frozen on a GPU, with a tape in the place of CUDA: a private copy of the model, replayed."""

import concurrent.futures
import copy
import pickle
import threading

import pytest
import torch
import torch.fx
from torch import nn
from torch.nn.utils import prune

import convnextv2_fast as cf
from convnextv2_fast.frozen import call, freezing
from convnextv2_fast.graphs import capture
from tests.frozen.subjects import FAMILIES, ONE_OF_EACH, build, flat, images
from tests.graphs.tape import Recorder

CLASSIFIER = "transformers-v2-classifier"


@pytest.fixture(autouse=True)
def recorder(monkeypatch):
    """CPUs count as GPUs; the copies run in plain PyTorch, as the CPU's kernels pack weights, which a GPU's read."""
    made = Recorder()
    monkeypatch.setattr(capture, "recorder", made)
    monkeypatch.setattr(freezing, "_is_replayed", lambda device: True)
    monkeypatch.setattr(call, "OPS", ())
    with cf.use_backend("torch"):
        yield made


def fast(family):
    """What the copy is: bits are those of accelerated blocks."""
    return build(family, accelerate=True)


def same(model, want, x):
    return all(torch.equal(a, b) for a, b in zip(flat(model(x)), want, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_results_are_the_models(recorder, family):
    model, inputs = build(family), [images(), images() + 1, images() * 2]
    want = [flat(fast(family)(x)) for x in inputs]
    assert cf.freeze(model) is model and cf.is_frozen(model)
    for _ in range(2):
        for x, w in zip(inputs, want, strict=True):
            assert same(model, w, x)
    assert len(recorder.recordings) == (2 if family.startswith("transformers") else 1)
    assert {r.replays for r in recorder.recordings} == {4}
    assert not cf.is_frozen(cf.unfreeze(model)) and torch.allclose(flat(model(inputs[0]))[0], want[0][0], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_other_dtypes_methods_and_shapes(recorder, dtype):
    model = build("ours").to(dtype)
    x, small = images(dtype=dtype), images(1, 32, 64, dtype)
    want = [m(i) for m in (model, model.forward_features) for i in (x, small)]
    cf.freeze(model)
    for _ in range(4):
        got = [m(i) for m in (model, model.forward_features) for i in (x, small)]
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert len(recorder.recordings) == 4
    for n in range(1, 12):
        for _ in range(3):
            model(images(n, 32, 32, dtype))
    assert len(vars(model)["frozen_program"]._shelf) == 8


@torch.no_grad()
def test_results_belong_to_the_caller():
    model = cf.freeze(build("ours"))
    results = [model(images(1, 32, 32) + i) for i in range(5)]
    assert len({y.data_ptr() for y in results}) == 5
    assert all(torch.equal(y, model(images(1, 32, 32) + i)) for i, y in enumerate(results))


# In transformers' models the embeddings and the encoder are frozen.
INSIDE = ("stem", "downsample_layers", "stages", "head", "convnextv2.embeddings", "convnextv2.encoder")


@pytest.mark.parametrize("family", ONE_OF_EACH)
@torch.no_grad()
def test_weights_are_constants_until_they_are_copied_anew(family):
    model, x = cf.freeze(fast(family)), images()
    want = flat(model(x))
    for change in (lambda p: p.mul_(1.5), lambda p: setattr(p, "data", p.data * 2)):
        for name, p in model.named_parameters():
            if name.startswith(INSIDE):
                change(p)
        assert all(same(model, want, x) for _ in range(3))
    twin = cf.unfreeze(copy.deepcopy(model))
    assert same(cf.freeze(model), flat(twin(x)), x) and not same(model, want, x)


REFUSED = {
    "train": lambda m: m.train(),
    "half": lambda m: m.half(),
    "meta": lambda m: m.to("meta"),
    "load": lambda m: m.load_state_dict(m.state_dict()),
    "classifier": lambda m: m.reset_classifier(3),
    "another head": lambda m: setattr(m, "head", nn.Identity()),
}


@pytest.mark.parametrize("what", REFUSED)
@torch.no_grad()
def test_what_would_change_weights_is_refused(what):
    model, x = cf.freeze(build("timm-v2")), images()
    want = flat(model(x))
    with pytest.raises(cf.UnsupportedInputError, match=r"is frozen: .*unfreeze"):
        REFUSED[what](model)
    assert same(model.eval().float(), want, x)


def test_calls_that_do_not_fit():
    model, x = cf.freeze(build("ours")), images()
    for bad in (x.half(), x[:, :2], x[:, :, :16], x.long(), x.clone().requires_grad_(), 3):
        with pytest.raises(cf.UnsupportedInputError, match="ConvNeXtV2, frozen: "):
            model(bad)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(cf.UnsupportedInputError, match="autocast"):
        model(x)
    model.stages[0][0].pwconv1 = nn.Linear(8, 32)
    with pytest.raises(cf.UnsupportedInputError, match="other parameters or modules"):
        model(x)


@pytest.mark.parametrize("change", ["hook", "training", "activation"])
def test_a_changed_model_is_refused(change):
    model = build("ours")
    block = model.stages[1][0]
    if change == "hook":
        block.register_forward_hook(lambda *_: None)
    elif change == "training":
        block.train()
    else:
        block.act = nn.ReLU().eval()
    with pytest.raises(cf.UnsupportedInputError, match=r"freeze: stages\.1\.0"):
        cf.freeze(model)
    assert not cf.is_frozen(model)


@torch.no_grad()
def test_hooks_on_the_model_itself_run_in_every_call(recorder):
    model, seen, x = build("ours"), [], images()
    model.register_forward_hook(lambda m, args, y: seen.append(m))
    cf.freeze(model)
    for _ in range(5):
        model(x)
    assert seen == [model] * 5 and len(recorder.recordings) == 1


@pytest.mark.parametrize("accelerate", [False, True])
@pytest.mark.parametrize("family", ONE_OF_EACH)
@torch.no_grad()
def test_copies(family, accelerate):
    model, x = build(family, accelerate=accelerate), images()
    classes = [type(m) for m in model.modules()]
    want = flat(fast(family)(x))
    cf.freeze(model)
    assert all(same(model, want, x) for _ in range(4))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert cf.is_frozen(other) and all(same(other, want, x) for _ in range(4))
        assert [type(m) for m in cf.unfreeze(other).modules()] == classes
        assert torch.allclose(flat(other(x))[0], want[0], atol=1e-5) and same(model, want, x)


@torch.no_grad()
def test_released_weights():
    model, x = build("timm-v2"), images()
    want = flat(fast("timm-v2")(x))
    cf.freeze(model, release_weights=True)
    assert all(p.is_meta for p in model.parameters()) and all(same(model, want, x) for _ in range(4))
    for act in (model.state_dict, lambda: cf.unfreeze(model), lambda: cf.freeze(model)):
        with pytest.raises(cf.UnsupportedInputError, match="weights were released"):
            act()


@torch.no_grad()
def test_threads_share_a_model_that_is_frozen_anew():
    model, x = cf.freeze(build("ours")), images(1, 32, 32)
    want = model(x)

    @cf.use_backend("torch")
    @torch.no_grad()
    def called():
        return model(x)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(called) for _ in range(40)]
        cf.freeze(model)
        assert all(torch.equal(c.result(), want) for c in calls)


@torch.no_grad()
def test_where_a_graph_is_captured_already_it_becomes_a_part(recorder):
    model, x = cf.freeze(build("ours")), images()
    want = flat(model(x))
    recorder.needs = "a CUDA graph is being captured already"
    assert all(same(model, want, x) for _ in range(4)) and not recorder.recordings


def test_under_compile_it_says_so():
    model = cf.freeze(build("ours"))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="does not look into the replay of a CUDA graph; unfreeze"):
        compiled(images())


def test_on_several_devices():
    model = build("ours")
    model.head.to("meta")
    with pytest.raises(cf.UnsupportedInputError, match="meta device"):
        cf.freeze(model)


@pytest.mark.parametrize("how", ["called before", "frozen anew", "at once"])
@pytest.mark.parametrize("kind", ["model", "classifier", "backbone"])
@torch.no_grad()
def test_hidden_states_of_transformers(kind, how):
    """They come once, and belong to the caller: the copy has no hooks that collect them."""
    model, x = build(f"transformers-v2-{kind}"), images(2, 64, 64)
    want = fast(f"transformers-v2-{kind}")(x, output_hidden_states=True).hidden_states
    if how == "called before":
        model(x, output_hidden_states=True)
    cf.freeze(model)
    if how == "frozen anew":
        model(x, output_hidden_states=True)
        cf.freeze(model)
    results = [model(x, output_hidden_states=True).hidden_states for _ in range(4)]
    model(x * 0, output_hidden_states=True)
    for found in results:
        assert len(found) == len(want) and all(map(torch.equal, found, want))


class Locked:
    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, *args):
        return None


HELD = {
    "an attribute": ("ours", lambda m: setattr(m, "held", Locked())),
    "a result": ("ours", lambda m: setattr(m, "last", m(images()))),
    "a hook": ("ours", lambda m: m.register_state_dict_pre_hook(Locked())),
    "a hook on the head": (CLASSIFIER, lambda m: m.classifier.register_forward_hook(Locked())),
    "a pruned head": (CLASSIFIER, lambda m: prune.l1_unstructured(m.classifier, "weight", 0.5)),
}


@pytest.mark.parametrize("what", HELD)
def test_what_hangs_on_a_model_is_not_copied(what):
    family, act = HELD[what]
    model, x = build(family), images()
    act(model)
    want = flat(model(x))[0]
    cf.freeze(model)
    for _ in range(4):
        assert torch.allclose(flat(model(x))[0], want, atol=1e-5)


def test_torch_fx_says_so():
    with pytest.raises(cf.UnsupportedInputError, match=r"torch.fx does not look into the replay .*; unfreeze"):
        torch.fx.symbolic_trace(cf.freeze(build("ours")))


@torch.no_grad()
def test_tied_weights_stay_tied_and_lists_apart():
    model = build("ours-maps")
    model.out_indices = [2, 0]
    frozen = cf.freeze(model)
    want = flat(frozen(images()))
    model.out_indices.append(3)
    assert all(same(frozen, want, images()) for _ in range(4))
