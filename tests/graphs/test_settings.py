"""Settings, modes and refusals: what a graph may not be made under, or makes another graph."""

import threading
import time

import pytest
import torch
from torch import nn

import convnextv2_fast as cf
from convnextv2_fast import graphs
from convnextv2_fast.graphs import capture
from convnextv2_fast.graphs.calls import settings

from .small import linear, sgd, square, take
from .tape import Recorder


def test_forward_mode_derivatives(recorder):
    model, x, tangent = linear(4, 4), torch.randn(2, 4), torch.randn(2, 4)
    fast = graphs.inference(model)
    for _ in range(4):
        fast(x)
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        assert torch.autograd.forward_ad.unpack_dual(fast(dual)).tangent is not None


SETTINGS = [
    (torch.backends.cudnn, "allow_tf32"),
    (torch.backends.cudnn, "deterministic"),
    (torch.backends.cudnn, "benchmark"),
    (torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction"),
    (torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction"),
]


@pytest.mark.parametrize(("place", "name"), SETTINGS, ids=[name for _, name in SETTINGS])
def test_settings_make_another_graph(place, name):
    before, old = settings(torch.device("cuda")), getattr(place, name)
    setattr(place, name, not old)
    try:
        assert settings(torch.device("cuda")) != before
    finally:
        setattr(place, name, old)
    assert settings(torch.device("cuda")) == before


def test_other_settings_make_another_graph():
    before = settings(torch.device("cuda"))
    torch.set_default_dtype(torch.float64)
    try:
        assert settings(torch.device("cuda")) != before
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert settings(torch.device("cuda")) != before


PARTS = {"one": torch.randn(1, 4), "several": torch.randn(3, 4), "dict": {"x": torch.randn(3, 4)}, "text": "text"}


@pytest.mark.parametrize("kind", PARTS)
def test_a_part_is_a_tuple_or_a_list(kind):
    model = linear(4, 1)
    step = graphs.TrainingStep(model, square, sgd(model.parameters()))
    with pytest.raises(cf.UnsupportedInputError, match=r"a part is a tuple or list of the inputs of loss.*got a"):
        step([PARTS[kind]])


FLAGS = {
    "matmul": (torch.backends.cuda.matmul, "tf32"),
    "conv": (torch.backends.cudnn.conv, "ieee"),
    "all": (torch.backends, "tf32"),
}


@pytest.mark.parametrize("flag", FLAGS)
def test_pytorchs_newer_precision_switches(recorder, flag):
    """Once one was used, the older ones may not be read."""
    place, value = FLAGS[flag]
    old, before = place.fp32_precision, settings(torch.device("cuda"))
    place.fp32_precision = value
    try:
        assert settings(torch.device("cuda")) != before
        model = linear(4, 1)
        take(graphs.TrainingStep(model, square, sgd(model.parameters())))
        assert len(recorder.recordings) == 2
    finally:
        place.fp32_precision = old


class Doubled(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        y = function(*args, **(kwargs or {}))
        return y * 2 if function is nn.functional.linear else y


def test_modes_see_every_operator(recorder):
    model, x = linear(4, 2), torch.randn(3, 4)
    fast = graphs.inference(model)
    step = graphs.TrainingStep(model, square, sgd(model.parameters()))
    take(step)
    with torch.no_grad():
        for _ in range(4):
            fast(x)
        with Doubled():
            assert torch.equal(fast(x), model(x)) and "a Doubled is at work" in fast.why_not(x)
    with Doubled():
        assert "a Doubled is at work" in step.why_not(x) and "a Doubled is at work" in step.why_not_update()
    with torch.device("cpu"):  # a default device is no such mode
        assert "a Doubled" not in str(fast.why_not(x))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_step_without_gradients_is_an_error_as_ever(recorder, context):
    model = linear(4, 2)
    step = graphs.TrainingStep(model, square, sgd(model.parameters()), say=[].append)
    take(step)
    with context():
        assert "under torch.no_grad" in step.why_not(torch.randn(3, 4))
        with pytest.raises(RuntimeError, match="does not require grad"):
            take(step, 1)


def test_what_a_step_is_made_of_cannot_be_replaced():
    model = linear(4, 2)
    step = graphs.TrainingStep(model, square, sgd(model.parameters()))
    for name in ("model", "optimizer", "scaler", "ema"):
        with pytest.raises(AttributeError):
            setattr(step, name, None)


def test_what_is_remembered_does_not_grow(recorder):
    class Writing(nn.Linear):
        def forward(self, x):
            return super().forward(x.mul_(0.5))

    model = Writing(4, 1)
    step = graphs.TrainingStep(model, square, sgd(model.parameters()), say=[].append)
    fast = graphs.inference(model)
    for i in range(300):
        step([(torch.randn(i + 1, 4),)])
        with torch.no_grad():
            fast(torch.randn(i + 1, 4))
    assert len(step._writes) == len(fast._unfit) == 256
    assert step.why_not(torch.randn(300, 4)) == "the loss writes into its inputs"


@pytest.mark.parametrize("result", [lambda y: (y.mean(), y), lambda y: {"loss": y.mean()}, lambda y: 1.0, lambda y: y])
def test_a_loss_is_one_number(result):
    model = linear(4, 2)
    step = graphs.TrainingStep(model, lambda m, x: result(m(x)), sgd(model.parameters()))
    with pytest.raises(cf.UnsupportedInputError, match=r"must return a tensor of one number, got (a|one of shape)"):
        take(step, 1)


def test_threads_make_their_graphs_one_after_the_other(monkeypatch):
    """All that runs aside, and all recordings, share one stream of a device."""

    class Watching(Recorder):
        at_work = 0
        most = 0

        def enter(self, function):
            self.at_work += 1
            self.most = max(self.most, self.at_work)
            time.sleep(0.02)
            result = function()
            self.at_work -= 1
            return result

        def aside(self, device, function):
            return self.enter(lambda: super(Watching, self).aside(device, function))

        def record(self, *args):
            return self.enter(lambda: super(Watching, self).record(*args))

    recorder = Watching()
    monkeypatch.setattr(capture, "recorder", recorder)

    def called(fast):
        with torch.no_grad():
            for _ in range(4):
                fast(torch.randn(2, 4))

    threads = [threading.Thread(target=called, args=(graphs.inference(linear(4, 4)),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recorder.most == 1 and len(recorder.recordings) == 3
