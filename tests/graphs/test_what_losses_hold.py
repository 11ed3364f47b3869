"""A loss is watched with all that it can reach without an argument."""

import functools

import pytest
import torch
from torch import nn

from convnextv2_fast import graphs

from .small import at, compare, linear, sgd, take, weights


class Weighted(nn.Module):
    """A loss with a parameter, a teacher, and numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.factor, self.teacher = nn.Parameter(torch.ones(2)), nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.9))
        self.use = False

    def forward(self, model, x):
        y = model(x)
        return ((y * self.factor if self.use else y) - self.teacher(x)).pow(2).mean()


LOSS_CHANGES = {
    "attribute": lambda c: setattr(c, "use", True),
    "mode": lambda c: c.train(),
    "module": lambda c: setattr(c, "teacher", linear(4, 2)),
    "hook": lambda c: c.teacher.register_forward_hook(lambda m, args, y: y * 2),
}


@pytest.mark.parametrize("held", ["itself", "method", "closure"])
@pytest.mark.parametrize("change", LOSS_CHANGES)
def test_a_loss_that_holds_modules(recorder, change, held):
    def train(on):
        model, criterion = linear(4, 2), Weighted().eval()
        forms = {"itself": criterion, "method": criterion.forward, "closure": lambda m, x: criterion(m, x)}
        optimizer = sgd([*model.parameters(), criterion.factor])
        step = graphs.TrainingStep(model, forms[held], optimizer, graphs=on)
        take(step, 12, at(6, lambda: LOSS_CHANGES[change](criterion)))
        return [*weights(model), criterion.factor.detach()]

    compare(train)


def teacher():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5)).eval().requires_grad_(False)


def distance(other, model, x):
    return (model(x) - other(x)).pow(2).mean()


class Holder:
    def __init__(self, other):
        self.other = other

    def __call__(self, model, x):
        return distance(self.other, model, x)

    def method(self, model, x):
        return distance(self.other, model, x)


def nested(other):
    inner = lambda m, x: distance(other, m, x)  # noqa: E731
    return lambda m, x: inner(m, x)


def of_globals(form):
    """The teacher is a global, which is used inside something else."""

    def made(other):
        globals()["of_this_file"] = other
        return form

    return made


def of_a_function(m, x):
    return distance(of_this_file, m, x)  # noqa: F821


def of_a_generator(m, x):
    return sum(distance(t, m, x) for t in [of_this_file for _ in range(1)])  # noqa: F821


def of_a_partial(scale, m, x):
    return distance(of_this_file, m, x) * scale  # noqa: F821


class OfAnObject:
    def __call__(self, m, x):
        return distance(of_this_file, m, x)  # noqa: F821


FORMS = {
    "closure": lambda t: lambda m, x: distance(t, m, x),
    "nested": nested,
    "default": lambda t: lambda m, x, t=t: distance(t, m, x),
    "keyword": lambda t: lambda m, x, *, t=t: distance(t, m, x),
    "partial": lambda t: functools.partial(distance, t),
    "partial of a closure": lambda t: functools.partial(lambda m, x: distance(t, m, x)),
    "decorated": lambda t: torch.enable_grad()(lambda m, x: distance(t, m, x)),
    "list": lambda t: (lambda held: lambda m, x: distance(held[0], m, x))([t]),
    "dictionary": lambda t: functools.partial(lambda m, x, held: distance(held["t"], m, x), held={"t": t}),
    "callable": Holder,
    "method": lambda t: Holder(t).method,
    "object": lambda t: (lambda holder: lambda m, x: holder(m, x))(Holder(t)),
    "global": of_globals(of_a_function),
    "global in a generator": of_globals(of_a_generator),
    "global in a partial": of_globals(functools.partial(of_a_partial, 1.0)),
    "global in an object": of_globals(OfAnObject()),
    "global in a function that is called": of_globals(lambda m, x: of_a_function(m, x)),
}
TEACHER_CHANGES = {
    "memory": lambda t: [setattr(p, "data", p.data * 0 + 1) for p in t.parameters()],
    "hook": lambda t: t[0].register_forward_hook(lambda m, args, y: y * 2),
    "dtype and back": lambda t: t.half().float(),
    "module": lambda t: t.__setitem__(0, nn.Linear(4, 2).requires_grad_(False)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", TEACHER_CHANGES)
def test_a_teacher_that_changes(recorder, form, change):
    def train(on):
        model, other = linear(4, 2), teacher()
        step = graphs.TrainingStep(model, FORMS[form](other), sgd(model.parameters()), graphs=on)

        def act():
            torch.manual_seed(9)
            TEACHER_CHANGES[change](other)

        take(step, 12, at(7, act))
        return weights(model)

    compare(train)
    assert recorder.recordings


def test_a_number_that_changes_in_every_step_is_told_of(recorder):
    holder, said = Holder(teacher()), []
    model = linear(4, 2)
    step = graphs.TrainingStep(model, holder, sgd(model.parameters()), say=said.append)
    take(step, before=lambda i: setattr(holder, "count", float(i)))
    assert len(said) == 1 and said[0].endswith("no longer the same (now a float) before every step")
    assert not recorder.recordings


def test_a_loss_that_reaches_too_much_runs_eagerly(recorder):
    many, model, said = [float(i) for i in range(2000)], linear(4, 2), []
    step = graphs.TrainingStep(model, lambda m, x: m(x).mean() * many[0], sgd(model.parameters()), say=said.append)
    take(step)
    assert "the loss reaches more than 1000 objects" in said[0] and not recorder.recordings
