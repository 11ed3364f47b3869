"""What a frozen model promises and refuses: constants, clear errors, copies, threads."""

import concurrent.futures
import copy
import dataclasses
import io
import pickle
import types

import pytest
import torch
from torch import nn

import convnextv2_fast as cf
from convnextv2_fast.frozen import call, freezing
from tests.frozen.subjects import ONE_OF_EACH, build, error, exact, flat, frozen, images
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
    "load_checkpoint": (lambda m: cf.load_checkpoint(m, build("ours").state_dict()), "weights of a checkpoint"),
    "load_checkpoint into a parent": (
        lambda m: cf.load_checkpoint(nn.Sequential(m), build("ours").state_dict()),
        "weights of a checkpoint",
    ),
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


def test_packed_anew_while_threads_run():
    model, x = frozen(), images(1, 32, 32)
    want = model(x)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(model, x) for _ in range(200)]
        while not all(one.done() for one in calls):
            cf.freeze(model)
        assert all(torch.equal(one.result(), want) for one in calls)


@pytest.mark.parametrize("release", [False, True])
def test_a_call_that_began_before_the_model_was_packed_anew(release):
    """It ends with the program and the record that it found."""
    model, x = frozen(), images()
    want = model(x)
    found = types.SimpleNamespace(frozen_record=model.frozen_record, frozen_program=model.frozen_program)
    with torch.no_grad():
        model.head.weight.mul_(2)
    cf.freeze(model, release_weights=release)
    assert torch.equal(call.run(found, x, "logits")[0], want) and not torch.equal(model(x), want)


@pytest.mark.parametrize("release", [False, True])
def test_a_copy_made_while_the_model_is_packed_anew(release, monkeypatch):
    """It refuses a parameter that was put in the place of another, as every copy does."""
    model, x, copies = frozen(), images(), []
    seen = freezing.Seen

    def copied(module):
        copies.append(copy.deepcopy(model))
        return seen(module)

    monkeypatch.setattr(freezing, "Seen", copied)
    cf.freeze(model, release_weights=release)
    assert len(copies) == 1 + release
    for other in copies:
        other.head._parameters["weight"] = nn.Parameter(torch.ones(5, 40))
        with pytest.raises(cf.UnsupportedInputError, match="in the place of those that it was frozen with"):
            other(x)


def test_what_stood_in_the_way_is_gone_before_it_is_named(monkeypatch):
    model, said = frozen(), iter(["hooks are registered", None])
    monkeypatch.setattr(call, "what_is_at_work", lambda device: next(said))
    with pytest.raises(cf.UnsupportedInputError, match="undone meanwhile, by another thread; call it again"):
        model(images())


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


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05), (torch.float16, 0.005)])
@pytest.mark.parametrize("isa", ISAS)
@torch.no_grad()
def test_every_instruction_set(isa, dtype, rtol):
    model, x = build("ours").to(dtype), images(dtype=dtype)
    want = exact(model)(x.double())
    with on_isa(isa):
        assert error(cf.freeze(model)(x), want) <= rtol


@torch.no_grad()
def test_subnormal_numbers_are_zeros():
    """As operands of the head, whose results would be subnormal; not in the caller's own arithmetic afterwards."""
    model, x = build("ours"), images()
    model.head.weight.fill_(1e-40)
    model.head.bias.zero_()
    assert (model.forward_features(x).double() @ model.head.weight.double().T).float().count_nonzero() > 0
    assert cf.freeze(model)(x).count_nonzero() == 0
    assert (torch.tensor(torch.finfo(torch.float32).tiny) * 0.5).item() != 0


def test_threads_share_a_model():
    model, batches = frozen(), [images(n, 64, 64) for n in (1, 2, 3, 4)] * 4
    want = [model(x) for x in batches]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
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


@pytest.mark.parametrize("family", ["timm-v2", "transformers-v2-classifier", "upstream"])
@pytest.mark.parametrize("inside", [False, True])
def test_restore_leaves_frozen_models_alone(family, inside):
    model, other = build(family, accelerate=True), build(family, accelerate=True)
    classes = [type(m) for m in model.modules()]
    cf.freeze(model)
    outside = sum(cf.adapters.is_accelerated(m) for m in other.modules())
    assert outside > 0
    assert cf.restore(nn.ModuleList([model, other]) if inside else model) == (outside if inside else 0)
    assert [type(m) for m in cf.unfreeze(model).modules()] == classes


def test_a_failed_second_freeze_leaves_the_first():
    model, x = frozen(), images()
    want = model(x)
    act, model.stages[0][0].act = model.stages[0][0].act, nn.ReLU().eval()
    with pytest.raises(cf.UnsupportedInputError, match="ReLU"):
        cf.freeze(model)
    model.stages[0][0].act = act
    assert cf.is_frozen(model) and torch.equal(model(x), want)
