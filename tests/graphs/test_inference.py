"""Graphs of inference, on a tape in the place of CUDA: results, and when a graph is made, replayed and forgotten."""

import pytest
import torch
from torch import nn

import convnextv2_fast as cf
from convnextv2_fast import graphs
from tests.ecosystem.subjects import SMALL, build, images


@pytest.fixture(autouse=True)
def plain_pytorch():
    """The CPU's kernels pack weights, which a GPU's read."""
    with cf.use_backend("torch"):
        yield


def called(fast, x, times=3):
    for _ in range(times):
        y = fast(x)
    return y


@torch.no_grad()
def test_results_are_the_models(recorder):
    model = build("ours")
    fast = graphs.inference(model)
    for i in range(5):
        x = torch.randn(2, 3, 64, 64)
        assert torch.equal(fast(x), model(x))
        assert len(recorder.recordings) == (i >= 2)
    assert recorder.recordings[0].replays == 3 and fast.why_not(x) is None


@torch.no_grad()
def test_results_are_copies_or_static(recorder):
    model = build("ours")
    for copy in (True, False):
        fast = graphs.inference(model, copy=copy)
        first = called(fast, images())
        kept = first.clone()
        second = fast(images() + 1)
        assert torch.equal(first, kept) == copy
        assert (first.data_ptr() == second.data_ptr()) != copy


@torch.no_grad()
def test_new_values_of_weights_are_seen(recorder):
    model, other = build("ours"), cf.ConvNeXtV2(num_classes=5, **SMALL)
    fast, x = graphs.inference(model), images()
    called(fast, x)
    model.load_state_dict(other.state_dict())
    assert torch.equal(fast(x), model(x))
    for p in model.parameters():
        p.mul_(1.1)
    assert torch.equal(fast(x), model(x)) and len(recorder.recordings) == 1


CHANGES = {
    "dtype": lambda m: m.double(),
    "memory": lambda m: setattr(m.head.weight, "data", m.head.weight + 1),
    "parameter": lambda m: setattr(m.head, "bias", nn.Parameter(torch.ones(5))),
    "module": lambda m: setattr(m, "head", nn.Linear(40, 5)),
    "attribute": lambda m: setattr(m.norm, "eps", 0.5),
    "mode": lambda m: m.train(),
    "layer": lambda m: m.stages[0].append(nn.Identity()),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_a_changed_model_is_captured_anew(recorder, change):
    model = build("ours")
    fast, x = graphs.inference(model), images()
    called(fast, x)
    CHANGES[change](model)
    x = x.to(model.head.weight.dtype)
    assert "are made anew" in fast.why_not(x) and len(recorder.recordings) == 1
    for _ in range(4):
        assert torch.equal(fast(x), model(x))
    assert len(recorder.recordings) == 2 and fast.why_not(x) is None


@torch.no_grad()
def test_the_graphs_used_last_are_kept(recorder):
    model = build("ours")
    fast = graphs.inference(model, most_shapes=2)
    one, two, three = (images(n) for n in (1, 2, 3))
    called(fast, one), called(fast, two), fast(one), called(fast, three)
    assert fast.why_not(one) is None and fast.why_not(three) is None and len(recorder.recordings) == 3
    assert torch.equal(fast(two), model(two)) and len(recorder.recordings) == 4
    assert torch.equal(fast(one), model(one)) and len(recorder.recordings) == 5


@torch.no_grad()
def test_what_makes_another_graph(recorder):
    """Strides, constants, autocast and the backend."""
    model = build("ours")
    fast, x = graphs.inference(model), images()
    called(fast, x)
    assert "after 2 more" in fast.why_not(x.contiguous(memory_format=torch.channels_last))
    with torch.autocast("cpu", torch.bfloat16):
        assert "after 2 more" in fast.why_not(x)
        assert called(fast, x).dtype == torch.bfloat16
        model.head.weight.mul_(2)  # autocast keeps casts of weights, which no graph may read
        assert torch.equal(fast(x), graphs.inference(model)(x))
    with cf.use_backend("auto"):
        assert "after 2 more" in fast.why_not(x)
    assert fast.why_not(x) is None


def test_gradients_and_hooks_need_the_model_itself(recorder):
    model = build("ours")
    fast, x = graphs.inference(model), images()
    assert not called(fast, x).requires_grad
    want = x.clone().requires_grad_()
    assert "gradient" in fast.why_not(want)
    fast(want).sum().backward()
    assert want.grad is not None
    seen = []
    handle = model.stages[1].register_forward_hook(lambda *_: seen.append(1))
    assert "hook is registered on stages.1" in fast.why_not(x)
    fast(x)
    assert seen
    handle.remove()
    assert fast.why_not(x) is None and len(recorder.recordings) == 1


class Odd(nn.Module):
    """Several kinds of arguments and results; adds to its first argument, if asked to."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x, scale=1.0, write=False, more=None):
        if write:
            x += 1
        return {"y": x * self.weight * scale, "both": (more, x.sum())}


@torch.no_grad()
def test_arguments_of_every_kind(recorder):
    fast, model = graphs.inference(Odd()), Odd()
    for i in range(4):
        x = torch.full((2, 3), float(i))
        got, want = fast(x, scale=2.0, more=[x + 1]), model(x, scale=2.0, more=[x + 1])
        assert torch.equal(got["y"], want["y"]) and torch.equal(got["both"][0][0], x + 1)
    assert len(recorder.recordings) == 1
    assert fast(x, scale=3.0)["y"].max() == 9
    assert "takes tensors and plain constants" in fast.why_not(x, scale=object())
    assert "of its own" in fast.why_not(x.as_subclass(type("Other", (torch.Tensor,), {})))
    wide = torch.ones(1, 3).expand(2, 3)
    assert torch.equal(called(fast, wide)["y"], model(wide)["y"])


@torch.no_grad()
def test_a_model_that_writes_into_its_arguments_stays_eager(recorder):
    fast = graphs.inference(Odd())
    for _ in range(4):
        x = torch.zeros(3)
        fast(x, write=True)
        assert x.max() == 1
    assert fast.why_not(x, write=True) == "the model writes into its arguments" and not recorder.recordings


class Reads(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum().item() > 0 else x


@torch.no_grad()
def test_reading_back_is_one_clear_error(recorder):
    fast, x = graphs.inference(Reads()), torch.ones(2)
    called(fast, x, 2)
    with pytest.raises(graphs.CaptureError, match=r"cannot be captured as a CUDA graph: Read.*\.item\(\)"):
        fast(x)


@torch.no_grad()
def test_random_numbers_are_those_of_eager_calls(recorder):
    model = nn.Dropout(0.5)
    fast, x = graphs.inference(model), torch.ones(64)
    found = []
    for f in (fast, model):
        torch.manual_seed(3)
        found.append([f(x) for _ in range(6)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert not torch.equal(found[0][4], found[0][5])


def test_where_no_graph_can_be_made_it_runs_eagerly():
    model, x = build("ours"), images()
    fast = graphs.inference(model)
    assert fast.why_not(x) == "CUDA graphs are for CUDA devices, and the tensors are on cpu"
    with torch.no_grad():
        assert torch.equal(called(fast, x), model(x))


def test_under_compile_and_other_looks_inside(recorder):
    fast = graphs.inference(Odd())
    compiled = torch.compile(lambda x: fast(x)["y"], backend="eager")
    for _ in range(4):
        assert torch.equal(compiled(torch.ones(3)), torch.ones(3))
    assert torch.func.vmap(lambda x: fast(x)["y"])(torch.ones(2, 3)).shape == (2, 3)
    assert not recorder.recordings


@torch.no_grad()
def test_inference_mode(recorder):
    model = build("ours")
    fast, x = graphs.inference(model), images()
    with torch.inference_mode():
        y = called(fast, images())
        assert torch.equal(y, model(x)) and y.is_inference()
    assert torch.equal(fast(x), model(x)) and len(recorder.recordings) == 1


def test_bad_arguments():
    for make, message in (
        (lambda: graphs.inference(torch.relu), "wants an nn.Module, got a builtin"),
        (lambda: graphs.inference(nn.Identity(), most_shapes=0), "most_shapes must be at least 1, got 0"),
    ):
        with pytest.raises(cf.UnsupportedInputError, match=message):
            make()


@torch.no_grad()
def test_nothing_grows(recorder):
    """Ever other shapes are counted for a while only."""
    fast = graphs.inference(Odd(), most_shapes=1)
    for n in range(1, 60):
        fast(torch.ones(n, 3))
    assert len(fast._shelf._seen) <= 16 and not recorder.recordings
