"""Small models and steps, taken with graphs and without."""

import itertools

import torch
from torch import nn

RATE = 2.0**-3


def square(model, x):
    return model(x).float().pow(2).mean()


def linear(*sizes):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(*pair) for pair in itertools.pairwise(sizes)))


def sgd(parameters, **options):
    return torch.optim.SGD(parameters, lr=RATE, **options)


def take(step, n=10, before=None, inputs=lambda i: (torch.randn(3, 4),)):
    """Steps on new inputs; `before` is called with the number of each. Returns all results."""
    torch.manual_seed(1)
    done = []
    for i in range(n):
        parts = [inputs(i) for _ in range(step.accumulate)]
        if before is not None:
            before(i)
        done.append(step(parts))
    return done


def compare(train, atol=1e-6):
    """`train(graphs)` returns tensors; they are the same with graphs and without."""
    for eager, graphed in zip(train(False), train(True), strict=True):
        torch.testing.assert_close(graphed, eager, rtol=1e-5, atol=atol)


def weights(*models):
    return [p.detach() for model in models for p in model.parameters()]


def at(number, act):
    return lambda i: act() if i == number else None
