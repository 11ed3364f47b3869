"""What once gave other results with graphs than without, or no clear word: small models, on a tape."""

import copy
import threading
import time

import pytest
import torch
from torch import nn

import convnextv2_fast as cf
from convnextv2_fast import graphs
from convnextv2_fast.graphs import capture
from convnextv2_fast.graphs.calls import settings
from tests import peers

from .small import at, compare, linear, sgd, square, take, weights
from .tape import Recorder


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


def test_forward_mode_derivatives(recorder):
    model, x, tangent = linear(4, 4), torch.randn(2, 4), torch.randn(2, 4)
    fast = graphs.inference(model)
    for _ in range(4):
        fast(x)
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        assert torch.autograd.forward_ad.unpack_dual(fast(dual)).tangent is not None


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


class Signed(nn.Linear):
    def forward(self, x, zero):
        return super().forward(x) * torch.atan2(torch.zeros(()), torch.tensor(zero))


@torch.no_grad()
def test_minus_zero_is_another_constant(recorder):
    model, x = Signed(4, 4), torch.randn(2, 4)
    fast = graphs.inference(model)
    for zero in (0.0, 0.0, 0.0, 0.0, -0.0):
        assert torch.equal(fast(x, zero), model(x, zero))


PARTS = {"one": torch.randn(1, 4), "several": torch.randn(3, 4), "dict": {"x": torch.randn(3, 4)}, "text": "text"}


@pytest.mark.parametrize("kind", PARTS)
def test_a_part_is_a_tuple_or_a_list(kind):
    model = linear(4, 1)
    step = graphs.TrainingStep(model, square, sgd(model.parameters()))
    with pytest.raises(cf.UnsupportedInputError, match=r"a part is a tuple or list of the inputs of loss.*got a"):
        step([PARTS[kind]])


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
