"""Models that change between the calls of a graph, and results that a replay must not overwrite."""

import pytest
import torch
from torch import nn

from convnextv2_fast import graphs
from convnextv2_fast.graphs import capture

from .small import compare, linear, sgd, square, take, weights


class Adapters(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.others = nn.Linear(4, 4), nn.ModuleList()

    def forward(self, x):
        x = self.first(x) * getattr(self, "scale", 1.0)
        for other in self.others:
            x = other(x)
        return x


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.others.append(nn.Linear(4, 4)),
        lambda m: m.register_buffer("scale", torch.tensor(3.0)),
        lambda m: setattr(m.first, "__class__", type("Other", (nn.Linear,), {"forward": lambda self, x: -x})),
    ],
    ids=["module", "buffer", "class"],
)
@torch.no_grad()
def test_what_is_registered_first_and_another_class(recorder, change):
    model, x = Adapters().eval(), torch.randn(2, 4)
    fast = graphs.inference(model)
    for _ in range(4):
        fast(x)
    change(model)
    assert torch.equal(fast(x), model(x)) and recorder.recordings


@torch.no_grad()
def test_weights_that_begin_where_they_began(recorder):
    model, x = nn.Linear(4, 10), torch.randn(2, 4)
    fast = graphs.inference(model)
    for _ in range(4):
        fast(x)
    model.weight.data, model.bias.data = model.weight.data[:5], model.bias.data[:5]
    assert "other memory" in fast.why_not(x) and fast(x).shape == (2, 5)


class Result:
    def __init__(self, logits):
        self.logits = logits


class InAnObject(nn.Linear):
    def forward(self, x):
        return Result(super().forward(x))


@torch.no_grad()
def test_results_in_objects_are_not_overwritten(recorder):
    model = InAnObject(4, 4)
    fast, inputs = graphs.inference(model), [torch.randn(2, 4) for _ in range(6)]
    results = [fast(x) for x in inputs]
    assert all(torch.equal(y.logits, model(x).logits) for x, y in zip(inputs, results, strict=True))
    assert "besides tensors and constants" in fast.why_not(inputs[0]) and not recorder.recordings


@pytest.mark.parametrize("name", ["accumulate", "autocast", "loss"])
def test_attributes_of_the_step(recorder, name):
    other = {"accumulate": 2, "autocast": torch.bfloat16, "loss": lambda m, x: m(x).abs().mean()}[name]

    def train(on):
        model = linear(4, 1)
        step = graphs.TrainingStep(model, square, sgd(model.parameters()), graphs=on)
        take(step, 6)
        setattr(step, name, other)
        take(step, 6)
        return weights(model)

    compare(train)


def test_inputs_that_the_loss_writes_into(recorder):
    said = []

    def train(on):
        model, x = linear(4, 1), torch.ones(3, 4)
        step = graphs.TrainingStep(
            model, lambda m, x: square(m, x.mul_(0.5)), sgd(model.parameters()), graphs=on, say=said.append
        )
        take(step, inputs=lambda i: (x,))
        return [x, *weights(model)]

    compare(train)
    assert said == ["without CUDA graphs: the loss writes into its inputs"]


@pytest.mark.parametrize(
    "compiled",
    [
        lambda m: m.compile(backend="eager"),
        lambda m: m[0].compile(backend="eager"),
        lambda m: setattr(m, "forward", torch.compile(m.forward, backend="eager")),
    ],
    ids=["itself", "a part", "forward"],
)
def test_compiled_in_place(recorder, compiled):
    model = linear(4, 4)
    compiled(model)
    assert "the model is compiled" in graphs.inference(model).why_not(torch.randn(3, 4))


class Signed(nn.Linear):
    def forward(self, x, zero):
        return super().forward(x) * torch.atan2(torch.zeros(()), torch.tensor(zero))


@torch.no_grad()
def test_minus_zero_is_another_constant(recorder):
    model, x = Signed(4, 4), torch.randn(2, 4)
    fast = graphs.inference(model)
    for zero in (0.0, 0.0, 0.0, 0.0, -0.0):
        assert torch.equal(fast(x, zero), model(x, zero))


class Counting(nn.Linear):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


def test_a_model_that_changes_in_every_call_is_told_of(recorder):
    model, said = Counting(4, 1), []
    step = graphs.TrainingStep(model, square, sgd(model.parameters()), say=said.append)
    take(step)
    assert len(said) == 1 and said[0].endswith("was changed before every step") and not recorder.recordings
    fast = graphs.inference(model)
    with torch.no_grad():
        for _ in range(6):
            fast(torch.randn(3, 4))
    assert fast.why_not(torch.randn(3, 4)).endswith("was changed before every call")


def test_a_question_changes_nothing(recorder):
    model, x = linear(4, 1).train(), torch.randn(3, 4)
    step, fast = graphs.TrainingStep(model, square, sgd(model.parameters())), graphs.inference(model)
    take(step)
    with torch.no_grad():
        for _ in range(4):
            fast(x)
    model.eval()
    assert all("are made anew" in why for why in (step.why_not(x), step.why_not_update(), fast.why_not(x)))
    model.train()
    assert step.why_not(x) is step.why_not_update() is fast.why_not(x) is None


class OnAGraph(nn.Module):
    """With a sparse buffer, which has no address."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("adjacency", torch.eye(3).to_sparse())

    def forward(self, x):
        return torch.sparse.mm(self.adjacency, self.layer(x))


@pytest.mark.parametrize("on_tape", [False, True])
@pytest.mark.parametrize("lazy", [False, True])
def test_weights_without_memory(recorder, monkeypatch, lazy, on_tape):
    if not on_tape:
        monkeypatch.setattr(capture, "recorder", capture.Cuda())

    def build():
        return nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(4)) if lazy else OnAGraph()

    model = build()
    for _ in range(4):
        graphs.inference(model)(torch.randn(3, 4))
    model = build()
    take(graphs.TrainingStep(model, square, sgd(model.parameters()), say=[].append), 6)


class Scaled(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)
        self.scale = torch.tensor(1.0)  # no buffer

    def forward(self, x):
        return super().forward(x) * self.scale


@torch.no_grad()
def test_a_plain_tensor_of_a_module(recorder):
    model, x = Scaled(), torch.randn(3, 4)
    fast = graphs.inference(model)
    for _ in range(4):
        fast(x)
    model.scale.data = torch.tensor(5.0)
    assert torch.equal(fast(x), model(x))
