"""What a frozen model promises and refuses: constants, clear errors, copies, threads."""

import concurrent.futures
import copy
import dataclasses
import io
import pickle

import pytest
import torch
from torch import nn

import convnextv2_fast as cf
from tests.frozen.subjects import ONE_OF_EACH, build, flat, frozen, images
from tests.native.isas import ISAS, needs_library, on_isa

pytestmark = [pytest.mark.cpu_kernel, needs_library]


def changes(model):
    weight = model.downsample_layers[0][0].weight
    return {
        "an optimizer": lambda: torch.optim.SGD([weight], lr=1.0).step(),
        "data": lambda: weight.data.mul_(2),
        "NumPy": lambda: weight.detach().numpy()[0].fill(0.5),
        "copy": lambda: weight.detach().copy_(torch.randn_like(weight)),
    }


@pytest.mark.parametrize("way", ["an optimizer", "data", "NumPy", "copy"])
@torch.no_grad()
def test_weights_are_constants_until_they_are_packed_anew(way):
    model, x = frozen(), images()
    before = model(x)
    model.downsample_layers[0][0].weight.grad = torch.randn(8, 3, 4, 4)
    changes(model)[way]()
    assert torch.equal(model(x), before)
    want = copy.deepcopy(model)
    after = cf.freeze(model)(x)
    assert not torch.allclose(after, before)
    assert torch.allclose(cf.unfreeze(want)(x), after, atol=1e-5)
    assert torch.equal(cf.freeze(want)(x), after)


REFUSED = {
    "train": (lambda m: m.train(), "cannot be trained"),
    "half": (lambda m: m.half(), "float32 on the CPU, not float16"),
    "to": (lambda m: m.to(torch.bfloat16), "not bfloat16"),
    "double": (lambda m: nn.Sequential(m).double(), "not float64"),
    "device": (lambda m: m.to("meta"), "on meta"),
    "load": (lambda m: m.load_state_dict(m.state_dict()), "weights of a checkpoint"),
    "load through a parent": (lambda m: (p := nn.Sequential(m)).load_state_dict(p.state_dict()), "of a checkpoint"),
    "classifier": (lambda m: m.reset_classifier(3), "head is part"),
    "another head": (lambda m: setattr(m, "head", nn.Identity()), "another head"),
    "no head": (lambda m: setattr(m, "head", None), "another head"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("family", ["ours", "timm-v2"])
def test_what_would_change_weights_is_refused(family, what):
    model, x = frozen(family), images()
    before = model(x)
    act, words = REFUSED[what]
    with pytest.raises(cf.UnsupportedInputError, match=f"is frozen: .*{words}.*unfreeze"):
        act(model)
    assert torch.equal(model(x), before)
    act(cf.unfreeze(model).float())


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_what_changes_nothing_passes(family):
    model, x = frozen(family), images()
    with torch.no_grad():
        before = flat(model(x))[0]
        model.eval().float().to("cpu").to(memory_format=torch.channels_last).share_memory().requires_grad_(False)
        assert torch.equal(flat(model(x))[0], before)


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


def test_packed_anew_while_threads_run():
    model, x = frozen(), images(1, 32, 32)
    want = model(x)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(model, x) for _ in range(200)]
        while not all(call.done() for call in calls):
            cf.freeze(model)
        assert all(torch.equal(call.result(), want) for call in calls)


def test_defaults_of_torch_do_not_matter():
    model, x = frozen(), images()
    want = model(x)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert torch.equal(cf.freeze(model).float()(x), want)
    finally:
        torch.set_default_dtype(torch.float32)


def test_hooks_on_the_model_itself_run():
    model, seen = build("ours"), []
    model.register_forward_pre_hook(lambda m, args: seen.append("before"))
    model.register_forward_hook(lambda m, args, y: seen.append("after"))
    cf.freeze(model)(images())
    assert seen == ["before", "after"]


@pytest.mark.parametrize("accelerate", [False, True])
@pytest.mark.parametrize("family", ONE_OF_EACH)
@torch.no_grad()
def test_copies(family, accelerate):
    model, x, file = cf.freeze(build(family, accelerate=accelerate)), images(), io.BytesIO()
    want = flat(model(x))[0]
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        assert type(other) is type(model) and cf.is_frozen(other)
        assert torch.equal(flat(other(x))[0], want)
        assert type(other).__name__ == type(build(family)).__name__
        assert not cf.is_frozen(cf.unfreeze(other)) and cf.is_frozen(model)


@pytest.mark.skipif(len(ISAS) < 2, reason="one instruction set")
def test_another_instruction_set():
    with on_isa(ISAS[0]):
        model, x = frozen(), images()
        want = model(x)
    with on_isa(ISAS[1]):
        words = f"for the instruction set {ISAS[0]}, and .* {ISAS[1]}.*freeze.model. again"
        with pytest.raises(ValueError, match=words):
            model(x)
        assert torch.allclose(cf.freeze(model)(x), want, atol=1e-5)


def test_another_version_of_the_library():
    model, x = frozen(), images()
    want = model(x)
    vars(model)["frozen_record"] = dataclasses.replace(model.frozen_record, version="0.0.1")
    with pytest.raises(cf.UnsupportedInputError, match=r"convnextv2_fast 0.0.1 froze it, .*freeze.model. again"):
        model(x)
    assert torch.equal(cf.freeze(model)(x), want)


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set(isa):
    model, x = build("ours"), images()
    with torch.no_grad(), on_isa(isa):
        want = model(x)
        assert torch.allclose(cf.freeze(model)(x), want, rtol=1e-5, atol=1e-5)


def test_threads_share_a_model():
    model, batches = frozen(), [images(n, 64, 64) for n in (1, 2, 3, 4)] * 4
    want = [model(x) for x in batches]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for got, w in zip(pool.map(model, batches), want, strict=True):
            assert torch.equal(got, w)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["ours", "ours-maps"])
def test_neither_batch_nor_threads_change_a_result(family, dtype):
    """A batch larger than what runs at once: 784 positions of the last map."""
    model, x = cf.freeze(build(family).to(dtype)), images(70, 96, 128, dtype)
    torch.set_num_threads(1)
    want = flat(model(x))
    try:
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert all(torch.equal(a, b) for a, b in zip(flat(model(x)), want, strict=True))
    finally:
        torch.set_num_threads(1)
    for i in (0, 66, 69):
        assert all(torch.equal(a, b[i : i + 1]) for a, b in zip(flat(model(x[i : i + 1])), want, strict=True))


def test_accelerate_and_restore_say_that_it_is_frozen():
    model = frozen("timm-v2")
    report = cf.accelerate(nn.Sequential(model))
    assert not report.replaced and [(r.name, r.reason[:6]) for r in report.not_replaced] == [("0", "frozen")]
    assert cf.restore(model) == 0


def test_a_failed_second_freeze_leaves_the_first():
    model, x = frozen(), images()
    want = model(x)
    model.stages[0][0].act = nn.ReLU().eval()
    with pytest.raises(cf.UnsupportedInputError, match="ReLU"):
        cf.freeze(model)
    assert cf.is_frozen(model) and torch.equal(model(x), want)
