"""Graphs of training steps, on a tape in the place of CUDA: bit for bit what eager steps compute."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree

import convnextv2_fast as cf
from convnextv2_fast import graphs
from convnextv2_fast.models import _masks
from tests import peers
from tests.ecosystem.subjects import NAMES, SMALL, build

# Learning rates that float32 holds, as a graph's are: what is compared is then equal to the last bit.
RATES = [2.0**-k for k in (10, 9, 8, 9, 10, 11, 10, 12)]
OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, weight_decay=0.05, fused=True),
    "adam": lambda p: torch.optim.Adam(p, amsgrad=True, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, momentum=0.9, nesterov=True, fused=True),
}


def classify(model, images, labels):
    return F.cross_entropy(model(images).float(), labels)


def dense():
    torch.manual_seed(0)
    return cf.ConvNeXtV2(num_classes=5, drop_path_rate=0.3, **SMALL).train()


def dense_batch(n=4):
    return torch.randn(n, 3, 64, 64), torch.randint(5, (n,))


class Trial:
    """A model, its optimizer and the rest, trained for some steps; the same again with and without graphs."""

    def __init__(self, on, model=None, optimizer="adamw", loss=classify, average=False, scaled=False, **options):
        self.model = model if model is not None else dense()
        self.device = next(self.model.parameters()).device
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        if average:
            peers.timm()
            from timm.utils import ModelEmaV3

            options["ema"] = ModelEmaV3(self.model, decay=0.75)
        if scaled:
            options["scaler"] = torch.amp.GradScaler(self.device.type, init_scale=2.0**17, growth_interval=2)
        self.options, self.said, self.losses, self.norms = options, [], [], []
        self.step = graphs.TrainingStep(self.model, loss, self.optimizer, graphs=on, say=self.said.append, **options)

    def train(self, batches, rates=RATES):
        for batch, rate in zip(batches, rates, strict=True):
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            done = self.step(pytree.tree_map_only(torch.Tensor, lambda t: t.to(self.device), batch))
            self.losses.append(done.loss)
            self.norms.append(done.grad_norm)
        return self

    def state(self):
        random = torch.cuda.get_rng_state() if self.device.type == "cuda" else torch.get_rng_state()
        found = {**self.model.state_dict(), "loss": torch.stack(self.losses), "random": random}
        for i, values in self.optimizer.state_dict()["state"].items():
            found |= {f"{i} {k}": v for k, v in values.items() if v is not None}
        if self.options.get("ema"):
            found |= {f"average {k}": v for k, v in self.options["ema"].module.state_dict().items()}
        if self.norms[0] is not None:
            found["norms"] = torch.stack(self.norms)
        return found


def same(one, other):
    a, b = one.state(), other.state()
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name].float(), b[name].float(), rtol=0, atol=0, equal_nan=True, msg=name)
    if "scaler" in one.options:
        assert one.options["scaler"].state_dict() == other.options["scaler"].state_dict()
    assert one.optimizer.state_dict()["param_groups"] == other.optimizer.state_dict()["param_groups"]


def compare(train, recorder, made):
    """`train(on)` with and without graphs; `made` of them."""
    eager = train(False)
    assert not recorder.recordings
    graphed = train(True)
    assert len(recorder.recordings) == made
    same(graphed, eager)
    return graphed


def batches(n=8, parts=1, size=4):
    torch.manual_seed(1)
    return [[dense_batch(size) for _ in range(parts)] for _ in range(n)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_is_the_eager_one(recorder, optimizer):
    def train(on):
        data = batches()
        return Trial(on, optimizer=optimizer).train(data)

    graphed = compare(train, recorder, 2)
    assert [r.replays for r in recorder.recordings] == [5, 5] and not graphed.said
    assert graphed.step.why_not(*dense_batch()) is None and graphed.step.why_not_update() is None
    assert all(p.grad is None for p in graphed.model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_accelerated_models(recorder, name):
    def train(on):
        return Trial(on, build(name).train(), average=True, accumulate=2).train(batches(parts=2, size=2))

    graphed = compare(train, recorder, 3)
    assert [r.replays for r in recorder.recordings] == [5, 5, 5] and not graphed.said


def test_everything_at_once(recorder):
    """bfloat16, clipping, a moving average, two parts a step."""

    def train(on):
        data = batches(parts=2, size=2)
        return Trial(on, average=True, accumulate=2, clip_grad=0.5, autocast=torch.bfloat16).train(data)

    graphed = compare(train, recorder, 3)
    assert [r.replays for r in recorder.recordings] == [5, 5, 5] and not graphed.said


@pytest.mark.parametrize("clip", [None, 1.0])
def test_float16_with_overflows(recorder, clip):
    """Steps that overflow are left out, on the device: the scale falls, weights and step counts stay."""

    def train(on):
        data = batches()
        data[5] = [(data[5][0][0] * 1e30, data[5][0][1])]
        return Trial(on, scaled=True, average=True, clip_grad=clip, autocast=torch.float16).train(data)

    graphed = compare(train, recorder, 2)
    assert graphed.options["scaler"].get_scale() < 2.0**20
    steps = {int(state["step"]) for state in graphed.optimizer.state.values()}
    assert steps < {5, 6, 7} and not torch.isfinite(torch.stack(graphed.losses)).all()


@pytest.mark.parametrize("scope", ["sample", "batch"])
def test_fcmae(recorder, monkeypatch, scope):
    monkeypatch.setattr(_masks, "_readable", lambda mask: False)  # a mask on a GPU is not

    def loss(model, images, mask, kept):
        return model(images, mask=mask, kept=kept, full_pred=False)[0]

    def train(on):
        torch.manual_seed(0)
        model = cf.fcmae.FCMAE(decoder_embed_dim=16, init="std02", grn_scope=scope, **SMALL)
        data = []
        for _ in range(8):
            images = torch.randn(2, 3, 64, 64)
            data.append([(images, model.gen_random_mask(images, 0.5), 2)])
        return Trial(on, model, loss=loss, clip_grad=1.0).train(data)

    compare(train, recorder, 2)


def test_fcmae_that_draws_its_own_masks(recorder, monkeypatch):
    monkeypatch.setattr(_masks, "_readable", lambda mask: False)

    def train(on):
        torch.manual_seed(0)
        model = cf.fcmae.FCMAE(decoder_embed_dim=16, init="std02", grn_scope="sample", **SMALL)
        data = [[(torch.randn(2, 3, 64, 64),)] for _ in range(8)]
        return Trial(on, model, loss=lambda m, x: m(x, mask_ratio=0.5)[0]).train(data)

    compare(train, recorder, 2)


def test_parts_of_another_shape(recorder):
    """Eager at first; a graph of their own when they come again."""

    def train(on):
        torch.manual_seed(1)
        data = [[dense_batch(4 - i % 2)] for i in range(12)]
        return Trial(on).train(data, [*RATES, *RATES[:4]])

    compare(train, recorder, 3)
    assert [r.replays for r in recorder.recordings] == [9, 3, 3]


def test_graphs_of_shapes_are_forgotten(recorder):
    def train(on):
        torch.manual_seed(1)
        data = [[dense_batch(n)] for n in (2, 3, 2) for _ in range(4)]
        return Trial(on, most_shapes=1).train(data, [*RATES, *RATES[:4]])

    compare(train, recorder, 4)
    assert [r.replays for r in recorder.recordings] == [1, 9, 1, 4]


def changed(on, change, at=5, **options):
    data = batches(12)
    trial = Trial(on, **options).train(data[:at], RATES[:at])
    change(trial)
    return trial.train(data[at:], [*RATES, *RATES[:4]][at:])


CHANGES = {
    "frozen": (lambda t: t.model.stages[0].requires_grad_(False), 4),
    "drop-path": (lambda t: setattr(t.model.stages[3][0].drop_path, "drop_prob", 0.5), 4),
    "memory": (lambda t: setattr(t.model.head.weight, "data", t.model.head.weight * 2), 4),
    "weight-decay": (lambda t: t.optimizer.param_groups[0].update(weight_decay=0.5), 3),
    "loaded": (lambda t: t.optimizer.load_state_dict(copy.deepcopy(t.optimizer.state_dict())), 3),
    "weights": (lambda t: t.model.load_state_dict(dense().state_dict()), 2),
    "no-gradients": (lambda t: t.optimizer.zero_grad(), 2),
    "gradients": (lambda t: [setattr(p, "grad", torch.ones_like(p)) for p in t.model.parameters()], 2),
    "eval": (lambda t: t.model.eval(), 4),
    "and-back": (lambda t: (t.model.eval(), t.model.train()), 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_in_the_middle(recorder, change):
    act, made = CHANGES[change]
    assert not compare(lambda on: changed(on, act), recorder, made).said


def test_a_schedule_of_weight_decay_leaves_the_update_eager(recorder):
    def train(on):
        data, trial = batches(), Trial(on)
        for i, batch in enumerate(data):
            trial.optimizer.param_groups[0]["weight_decay"] = 2.0**-i
            trial.train([batch], RATES[i : i + 1])
        return trial

    graphed = compare(train, recorder, 1)
    assert len(graphed.said) == 1 and "weight decay, or another number" in graphed.said[0]


def test_optimizers_that_no_graph_holds(recorder):
    peers.timm()
    from timm.optim import create_optimizer_v2

    def train(on):
        data = batches()
        trial = Trial(on)
        trial.optimizer = create_optimizer_v2(trial.model.parameters(), "lamb", lr=1e-3)
        trial.step = graphs.TrainingStep(trial.model, classify, trial.optimizer, graphs=on, say=trial.said.append)
        return trial.train(data)

    graphed = compare(train, recorder, 1)
    assert len(graphed.said) == 1 and "Lamb has no form" in graphed.said[0] and "AdamW" in graphed.said[0]


def test_a_moving_average_elsewhere_is_updated_beside_the_graph(recorder):
    class Elsewhere:
        def __init__(self, model):
            self.module = copy.deepcopy(model)

        def update(self, model):
            for mine, p in zip(self.module.parameters(), model.parameters(), strict=True):
                mine.data.lerp_(p.data, 0.25)

    def train(on):
        data, model = batches(), dense()
        return Trial(on, model, ema=Elsewhere(model)).train(data)

    graphed = compare(train, recorder, 2)
    assert graphed.said == [
        "without CUDA graphs: the moving average is a Elsewhere; timm's ModelEmaV3 is known to stay on the device "
        "(the moving average alone)"
    ]


def test_hooks_and_checkpointing_run_eagerly(recorder):
    seen, trial, data = [], Trial(True), batches()
    trial.train(data[:4], RATES[:4])
    handle = trial.model.stages[0].register_forward_hook(lambda *_: seen.append(1))
    assert "hook is registered on stages.0" in trial.step.why_not(*data[0][0])
    trial.train(data[4:5], RATES[4:5])
    assert seen == [1] and len(trial.said) == 1
    handle.remove()
    assert trial.step.why_not(*data[0][0]) is None and len(recorder.recordings) == 2
    trial.model.set_grad_checkpointing()
    trial.train(data[5:], RATES[5:])
    assert "activation checkpointing is on in the model" in trial.said[-1] and len(recorder.recordings) == 2


def test_gradients_seen_by_hooks_of_parameters(recorder):
    trial = Trial(True)
    trial.model.head.weight.register_hook(lambda g: g * 2)
    assert "on a parameter" in trial.step.why_not(*dense_batch())


def test_wrapped_models(recorder, tmp_path):
    """What of DistributedDataParallel a graph cannot hold; and that its own first ten steps are eager."""
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        for options, reason in (
            ({"find_unused_parameters": True}, "find_unused_parameters=True"),
            ({"static_graph": True}, "static_graph=True"),
            ({}, None),
        ):
            model = nn.parallel.DistributedDataParallel(dense(), **options)
            trial = Trial(True, model).train(batches(2), RATES[:2])
            assert len(trial.said) == (reason is not None) and (reason or "") in "".join(trial.said)
        assert trial.step.why_not(*dense_batch()) == "parts like this one become a graph after 9 more"
        model.register_comm_hook(None, lambda state, bucket: None)
        assert "on DistributedDataParallel" in trial.step.why_not(*dense_batch())
    finally:
        dist.destroy_process_group()
    assert "DataParallel copies the model" in Trial(True, nn.DataParallel(dense())).said[0]


def test_hooks_on_all_modules(recorder):
    trial = Trial(True)
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert "on all modules" in trial.step.why_not(*dense_batch())
    handle.remove()
    assert "after 3 more" in trial.step.why_not(*dense_batch())


def test_a_resumed_run_is_the_same_with_and_without_graphs(recorder):
    """A checkpoint says nothing of graphs: either kind of run goes on from either kind of checkpoint."""

    def run(first, second):
        data = batches(16)
        trial = Trial(first).train(data[:8])
        random, held = torch.get_rng_state(), (trial.model.state_dict(), trial.optimizer.state_dict())
        assert not trial.optimizer.param_groups[0]["capturable"]
        assert isinstance(trial.optimizer.param_groups[0]["lr"], float)
        again = Trial(second, dense())
        again.model.load_state_dict(held[0])
        again.optimizer.load_state_dict(copy.deepcopy(held[1]))
        torch.set_rng_state(random)
        again.losses, again.norms = trial.losses, trial.norms
        return again.train(data[8:])

    whole = run(False, False)
    for kinds in ((True, True), (True, False), (False, True)):
        same(run(*kinds), whole)


def test_a_checkpoint_of_steps_counted_on_the_cpu(recorder):
    """An eager AdamW counts on the CPU; its state moves to the device of a graph and keeps its form."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    step = graphs.TrainingStep(model, lambda m, x: m(x).mean(), optimizer)
    before = {**optimizer.param_groups[0], "params": None}
    for _ in range(5):
        step([(torch.ones(2, 3),)])
    assert {**optimizer.param_groups[0], "params": None} == before
    assert not hasattr(optimizer, "_step_supports_amp_scaling")
    assert len(recorder.recordings) == 2


def test_schedulers_of_torch(recorder):
    def train(on):
        data, trial = batches(), Trial(on)
        trial.optimizer.param_groups[0]["lr"] = 2.0**-8
        schedule = torch.optim.lr_scheduler.ExponentialLR(trial.optimizer, 0.5)
        for batch in data:
            done = trial.step(batch)
            trial.losses.append(done.loss)
            trial.norms.append(None)
            schedule.step()
        return trial

    compare(train, recorder, 2)


def test_results_belong_to_the_caller(recorder):
    trial = Trial(True, clip_grad=1.0).train(batches())
    assert len({t.data_ptr() for t in [*trial.losses, *trial.norms]}) == 16
    assert not any(t.requires_grad for t in trial.losses)


def test_reading_back_is_one_clear_error(recorder):
    trial = Trial(True, loss=lambda m, x, y: classify(m, x, y) * (1 if x.sum().item() else 2))
    with pytest.raises(graphs.CaptureError, match="cannot be captured"):
        trial.train(batches())


@pytest.mark.parametrize("at", [0, 2, 5], ids=["first", "warm", "graphed"])
@pytest.mark.parametrize("fault", ["loss", "parts"])
def test_a_step_that_fails_leaves_nothing(recorder, fault, at):
    """The second part fails, or is missing: the first is forgotten, and the step can be taken again."""

    def failing(model, images, labels):
        if len(labels) == 3:
            raise ValueError("three")
        return classify(model, images, labels)

    def train(on):
        data, trial = batches(parts=2, size=2), Trial(on, loss=failing, accumulate=2)
        for i, (batch, rate) in enumerate(zip(data, RATES, strict=True)):
            if i == at and on != "twin":
                random = torch.get_rng_state()
                with pytest.raises(ValueError if fault == "loss" else cf.UnsupportedInputError):
                    trial.step([batch[0], dense_batch(3)] if fault == "loss" else iter(batch[:1]))
                torch.set_rng_state(random)
            trial.train([batch], [rate])
        return trial

    plain, eager, graphed = train("twin"), train(False), train(True)
    same(eager, plain)
    same(graphed, plain)


def test_bad_arguments():
    model = dense()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    step = graphs.TrainingStep(model, classify, optimizer, accumulate=2)
    for kind in (list, iter):
        for parts, got in (([dense_batch()], "got 1"), ([dense_batch()] * 3, "got 3"), ([], "got 0")):
            with pytest.raises(cf.UnsupportedInputError, match=f"takes accumulate=2 parts, {got}"):
                step(kind(parts))
    peers.timm()
    from timm.utils import ModelEmaV3

    for option in ({"use_warmup": True}, {"update_after_step": 5}):
        with pytest.raises(cf.UnsupportedInputError, match=r"call ema.update\(model, step=...\) yourself"):
            graphs.TrainingStep(model, classify, optimizer, ema=ModelEmaV3(model, **option))
    with pytest.raises(cf.UnsupportedInputError, match="must be at least 1"):
        graphs.TrainingStep(model, classify, optimizer, accumulate=0)
    with pytest.raises(cf.UnsupportedInputError, match="no parameter of the model requires a gradient"):
        graphs.TrainingStep(model.requires_grad_(False), classify, optimizer)


def test_a_cpu_is_not_worth_a_word():
    trial = Trial(True)
    trial.train(batches(1), RATES[:1])
    assert trial.step.why_not(*dense_batch()).startswith("CUDA graphs are for CUDA devices") and not trial.said
    assert all(p.grad is None for p in trial.model.parameters())


def test_under_autocast_of_the_callers(recorder):
    trial = Trial(True)
    with torch.autocast("cpu", torch.bfloat16):
        trial.train(batches(5), RATES[:5])
    assert "give it autocast= instead" in trial.said[0] and not recorder.recordings
