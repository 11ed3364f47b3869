"""Optimizers and their state under graphs: what once gave other results than eager steps, or no clear word."""

import copy

import pytest
import torch
from torch import nn

from convnextv2_fast import graphs
from tests import peers

from .small import at, compare, linear, sgd, square, take, weights


def test_a_first_step_that_overflows_leaves_no_momentum(recorder):
    def train(on):
        model, scaler = linear(64, 64), torch.amp.GradScaler("cpu", init_scale=2.0**127)
        optimizer = torch.optim.SGD(model.parameters(), lr=2**-6, momentum=0.9)
        step = graphs.TrainingStep(model, lambda m, x: square(m, x) * 100, optimizer, scaler=scaler, graphs=on)
        take(step, 30, inputs=lambda i: (torch.randn(3, 64),))
        return weights(model)

    compare(train, 1e-5)
    assert recorder.recordings


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.heads = nn.Linear(4, 4), nn.ModuleDict({name: nn.Linear(4, 1) for name in "ab"})

    def forward(self, x, task):
        return self.heads[task](self.body(x))


def test_a_gradient_that_comes_late(recorder):
    def train(on):
        model, tasks = Heads(), "aaaaaabbaabbbbbbab"
        step = graphs.TrainingStep(
            model, lambda m, x, task: m(x, task).pow(2).mean(), sgd(model.parameters()), clip_grad=100.0, graphs=on
        )
        done = take(step, len(tasks), inputs=lambda i: (torch.randn(3, 4), tasks[i]))
        return [torch.stack([d.grad_norm for d in done]), *weights(model)]

    compare(train)
    assert len(recorder.recordings) > 2


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9)])
def test_state_of_other_strides(recorder, optimizer):
    def train(on):
        torch.manual_seed(0)
        model = nn.Conv2d(3, 4, 3)
        step = graphs.TrainingStep(model, square, optimizer(model.parameters(), lr=2**-6), graphs=on)
        change = at(2, lambda: model.to(memory_format=torch.channels_last))
        take(step, 8, change, lambda i: (torch.randn(2, 3, 8, 8),))
        return weights(model)

    compare(train, 1e-5)


@pytest.mark.parametrize("on", [False, True])
def test_an_update_that_fails(recorder, on, monkeypatch):
    """The next step is as if it had not been, with a GradScaler too."""
    clip, failing = nn.utils.clip_grad_norm_, []

    def clipped(*args):
        if failing:
            raise RuntimeError(failing.pop())
        return clip(*args)

    def train(fail):
        monkeypatch.setattr(nn.utils, "clip_grad_norm_", clipped)
        model = linear(4, 1)
        step = graphs.TrainingStep(
            model, square, sgd(model.parameters()), scaler=torch.amp.GradScaler("cpu"), clip_grad=1.0, graphs=on
        )
        take(step, 2)
        if fail:
            failing.append("out of memory")
            with pytest.raises(RuntimeError, match="out of memory"):
                take(step, 1)
        take(step, 6)
        return weights(model)

    assert all(map(torch.equal, train(True), train(False)))


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize("first", [1, 6])
def test_an_interrupt(recorder, on, first):
    def loss(model, x):
        if len(x) == 2:
            raise KeyboardInterrupt
        return square(model, x)

    def train(interrupt):
        model = linear(4, 1)
        step = graphs.TrainingStep(model, loss, sgd(model.parameters()), accumulate=2, graphs=on)
        take(step, first)
        if interrupt:
            with pytest.raises(KeyboardInterrupt):
                step([(torch.randn(3, 4),), (torch.randn(2, 4),)])
        take(step, 6)
        return weights(model)

    assert all(map(torch.equal, train(True), train(False)))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_layers_that_are_trained_later(recorder, momentum):
    def train(on):
        model = linear(4, 4, 2)
        model[0].requires_grad_(False)
        step = graphs.TrainingStep(model, square, sgd(model.parameters(), momentum=momentum), graphs=on)
        take(step, before=at(5, lambda: model[0].requires_grad_()))
        return weights(model)

    compare(train)


def test_dampening_leaves_the_update_eager(recorder):
    said = []

    def train(on):
        model = linear(4, 2)
        optimizer = sgd(model.parameters(), momentum=0.9, dampening=0.5)
        take(graphs.TrainingStep(model, square, optimizer, graphs=on, say=said.append))
        return weights(model)

    compare(train)
    assert "does not dampen its first step" in said[0] and len(said) == 1


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adagrad])
@pytest.mark.parametrize("as_module", [False, True])
def test_sparse_gradients(recorder, optimizer, as_module):
    said = []

    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.weight = nn.Parameter(torch.randn(10, 4))

        def forward(self, x):
            return nn.functional.embedding(x, self.weight, sparse=True)

    def train(on):
        model = nn.Embedding(10, 4, sparse=True) if as_module else Table()
        nn.init.ones_(model.weight)
        step = graphs.TrainingStep(model, square, optimizer(model.parameters(), lr=0.125), graphs=on, say=said.append)
        take(step, 3 if not as_module else 8, inputs=lambda i: (torch.arange(3),))
        return weights(model)

    compare(train)
    assert any("sparse" in words or "has no form" in words for words in said)


def test_another_module_of_the_average(recorder):
    peers.timm()
    from timm.utils import ModelEmaV3

    def train(on):
        model = linear(4, 1)
        average = ModelEmaV3(model, decay=0.5)
        step = graphs.TrainingStep(model, square, sgd(model.parameters()), ema=average, graphs=on)
        take(step, before=at(6, lambda: setattr(average, "module", copy.deepcopy(model))))
        return weights(average.module)

    compare(train)


def test_a_step_of_the_optimizers_own(recorder):
    model, called, said = linear(4, 1), [], []
    optimizer = sgd(model.parameters())
    inner = optimizer.step
    optimizer.step = lambda *args, **kwargs: called.append(1) or inner(*args, **kwargs)
    take(graphs.TrainingStep(model, square, optimizer, say=said.append))
    assert len(called) == 10 and "has a step of its own" in said[0]


OPTIMIZERS = {
    "Adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("until", [3, 5, 8])
@pytest.mark.parametrize("clear", [True, False])
def test_state_that_is_emptied_before_the_graph_is_made(recorder, optimizer, until, clear):
    def train(on):
        model = linear(4, 2)
        optimizer_ = OPTIMIZERS[optimizer](model.parameters())
        step = graphs.TrainingStep(model, square, optimizer_, graphs=on)
        initial = copy.deepcopy(optimizer_.state_dict())

        def empty(i):
            if i < until and clear:
                optimizer_.state.clear()
            elif i < until:
                optimizer_.load_state_dict(initial)

        take(step, 16, empty)
        return weights(model)

    compare(train, 1e-4)
    assert len(recorder.recordings) == 2
