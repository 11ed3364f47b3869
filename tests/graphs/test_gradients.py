"""Gradients belong to a step: what others did to them before, between and after steps, with graphs and without."""

import pytest
import torch
from torch import nn

from convnextv2_fast import graphs

from .small import at, compare, linear, sgd, square, take, weights


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)


class Two(nn.Module):
    """The second layer is not used."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.used, self.other = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        return self.used(x)


def trained_before_and_frozen(on):
    model = linear(4, 4, 2)
    optimizer = adamw(model)
    model(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    model[0].requires_grad_(False)
    take(graphs.TrainingStep(model, square, optimizer, graphs=on))
    return weights(model)


def a_backward_between_steps(on):
    model = Two()
    step = graphs.TrainingStep(model, square, adamw(model), graphs=on)
    take(step, before=lambda i: model.other(torch.ones(3, 4)).sum().backward())
    return weights(model)


def a_backward_before_the_first(on):
    model = Two()
    model.other(torch.ones(3, 4)).sum().backward()
    take(graphs.TrainingStep(model, square, adamw(model), graphs=on))
    return weights(model)


def two_steps_of_one_optimizer(on):
    model = Two()
    optimizer = adamw(model)
    one = graphs.TrainingStep(model, square, optimizer, graphs=on)
    other = graphs.TrainingStep(model, lambda m, x: square(m.other, x), optimizer, graphs=on)
    for _ in range(10):
        take(one, 1)
        take(other, 1)
    return weights(model)


def a_step_of_ones_own_after_a_step(on):
    model = linear(4, 2)
    optimizer = sgd(model.parameters())
    step = graphs.TrainingStep(model, square, optimizer, graphs=on)
    for i in range(8):
        take(step, 1)
        if i % 3 == 2:
            square(model, torch.ones(3, 4)).backward()
            optimizer.step()
    return weights(model)


@pytest.mark.parametrize(
    "train",
    [
        trained_before_and_frozen,
        a_backward_between_steps,
        a_backward_before_the_first,
        two_steps_of_one_optimizer,
        a_step_of_ones_own_after_a_step,
    ],
)
def test_gradients_of_others(recorder, train):
    compare(train)
    assert recorder.recordings


class Uncertain(nn.Module):
    """A loss with a parameter that an optimizer of its own trains."""

    def __init__(self):
        super().__init__()
        self.log_variance = nn.Parameter(torch.ones(()))

    def forward(self, model, x):
        return square(model, x) * torch.exp(-self.log_variance) + self.log_variance


@pytest.mark.parametrize("none", [True, False])
def test_a_parameter_of_the_loss_that_another_optimizer_has(recorder, none):
    def train(on):
        model, loss = linear(4, 2), Uncertain()
        other = sgd(loss.parameters())
        step = graphs.TrainingStep(model, loss, sgd(model.parameters()), graphs=on)
        for _ in range(12):
            other.zero_grad(set_to_none=none)
            take(step, 1)
            other.step()
        return weights(model, loss)

    compare(train)
    assert recorder.recordings


CHANGES = {
    "memory": lambda s: setattr(s, "data", s.data.clone() * 3),
    "frozen": lambda s: s.requires_grad_(False),
    "hook": lambda s: s.register_hook(lambda g: g * 0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_parameter_in_no_module(recorder, change):
    def train(on):
        model, scale = linear(4, 2), nn.Parameter(torch.ones(2))
        optimizer = sgd([*model.parameters(), scale])
        step = graphs.TrainingStep(model, lambda m, x: (m(x) * scale).pow(2).mean(), optimizer, graphs=on)
        take(step, 12, at(7, lambda: CHANGES[change](scale)))
        return [*weights(model), scale.detach()]

    compare(train)
    assert recorder.recordings


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("number", range(5))
def test_zero_grad_while_the_parts_are_made(recorder, accumulate, number):
    """As by an iterator that makes adversarial examples."""

    def train(on):
        model = linear(4, 2)
        optimizer = sgd(model.parameters(), momentum=0.9)
        step = graphs.TrainingStep(model, square, optimizer, accumulate=accumulate, graphs=on)
        torch.manual_seed(1)

        def parts(i):
            for k in range(accumulate):
                x = torch.randn(3 if i < 8 or i % 2 else 5, 4)
                if i == number and k == 0:
                    model(x).sum().backward()
                    optimizer.zero_grad()
                yield (x,)

        for i in range(14):
            step(parts(i))
        return weights(model)

    compare(train)


@pytest.mark.parametrize("how", [False, True])
def test_two_steps_that_share_gradients(recorder, how):
    """A generator and a discriminator, as the usual loop trains them."""

    def train(loop):
        made, judge = linear(4, 4), linear(4, 1)
        of_made, of_judge = sgd(made.parameters()), sgd(judge.parameters())

        def please(made, z):
            return judge(made(z)).pow(2).mean()

        def tell_apart(judge, x, z):
            return (judge(x) - 1).pow(2).mean() + judge(made(z).detach()).pow(2).mean()

        first = graphs.TrainingStep(made, please, of_made, graphs=how)
        second = graphs.TrainingStep(judge, tell_apart, of_judge, graphs=how)
        torch.manual_seed(1)
        for _ in range(8):
            x, z = torch.randn(3, 4), torch.randn(3, 4)
            if loop:
                of_made.zero_grad()
                please(made, z).backward()
                of_made.step()
                of_judge.zero_grad()
                tell_apart(judge, x, z).backward()
                of_judge.step()
            else:
                first([(z,)])
                second([(x, z)])
        return weights(made) + weights(judge)

    for usual, stepped in zip(train(True), train(False), strict=True):
        torch.testing.assert_close(stepped, usual, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("on", [False, True])
def test_a_norm_does_not_grow_by_what_the_optimizer_leaves_out(recorder, on):
    model, x = linear(4, 4, 1), torch.randn(3, 4)
    step = graphs.TrainingStep(model, square, torch.optim.SGD(model[1].parameters(), lr=0.0), clip_grad=1.0, graphs=on)
    assert len({step([(x,)]).grad_norm.item() for _ in range(6)}) == 1
