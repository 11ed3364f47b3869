"""Random sequences of what users do to a model between two answers, each answer compared with plain PyTorch's.

    python -m tests.reliability.changing --steps 10000

Two models live side by side: one runs on this library's kernels, its twin is written in plain PyTorch modules of the
same names. Every step does the same to both, in one of some forty ways, and then both answer.
"""

from __future__ import annotations

import argparse
import copy
import io
import random
import threading
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import convnextv2_fast as cf
from convnextv2_fast import fusion
from convnextv2_fast.testing import randomise
from tests import peers
from tests.adapters import written_like_upstream

SIZE = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
NAMES = ("ours", "like upstream", "timm", "timm v1", "transformers")
LONGEST = 40  # steps after which both begin anew, so that weights stay ordinary numbers


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).logits


class LikeUpstream(nn.Module):
    """Upstream's model in plain modules, under its names."""

    def __init__(self, num_classes=5):
        super().__init__()
        depths, dims = SIZE["depths"], SIZE["dims"]
        norm = written_like_upstream.LayerNorm
        stem = nn.Sequential(nn.Conv2d(3, dims[0], 4, 4), norm(dims[0], data_format="channels_first"))
        self.downsample_layers = nn.ModuleList([stem])
        for i in range(3):
            self.downsample_layers.append(
                nn.Sequential(norm(dims[i], data_format="channels_first"), nn.Conv2d(dims[i], dims[i + 1], 2, 2))
            )
        block = written_like_upstream.Block
        self.stages = nn.ModuleList(
            nn.Sequential(*[block(c, 0.2) for _ in range(n)]) for c, n in zip(dims, depths, strict=True)
        )
        self.norm, self.head = nn.LayerNorm(dims[-1], eps=1e-6), nn.Linear(dims[-1], num_classes)

    def forward(self, x):
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        return self.head(self.norm(x.mean([-2, -1])))


def plain(name):
    """A small model in plain PyTorch, nothing in it at zero."""
    if name in ("ours", "like upstream"):
        return randomise(LikeUpstream(), 0)
    if name == "transformers":
        transformers = peers.transformers()
        config = transformers.ConvNextV2Config(
            hidden_sizes=list(SIZE["dims"]), depths=list(SIZE["depths"]), num_labels=5, drop_path_rate=0.2
        )
        return randomise(Logits(transformers.ConvNextV2ForImageClassification(config)), 0)
    peers.timm()
    from timm.models.convnext import ConvNeXt

    grn = dict(use_grn=True, ls_init_value=None) if name == "timm" else dict(ls_init_value=0.3)
    return randomise(ConvNeXt(num_classes=5, drop_path_rate=0.2, **SIZE, **grn), 0)


def fast(name, twin):
    """The same on this library's kernels."""
    if name == "ours":
        model = cf.ConvNeXtV2(num_classes=5, drop_path_rate=0.2, **SIZE)
        # upstream's rates, from 0 to that of the last block
        for ours, theirs in zip(model.stages, twin.stages, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                a.drop_path = cf.models.utils.DropPath(b.drop_path.drop_prob)
        model.load_state_dict(twin.state_dict())
        return model
    model = copy.deepcopy(twin)
    report = cf.accelerate(model)
    assert report.replaced and not report.not_replaced, str(report)
    return model


class Run:
    """The two models, and what was done to them."""

    def __init__(self, name, seed):
        self.name, self.random, self.log, self.handles = name, random.Random(seed), [], []
        self.begin()

    def begin(self):
        hooks_removed(self)  # one on all modules would outlive them, and stop every kernel
        torch.manual_seed(0)
        self.plain = plain(self.name).eval()
        self.fast = fast(self.name, self.plain).eval()
        self.start = copy.deepcopy(self.plain.state_dict())
        self.done = 0

    @property
    def both(self):
        return self.fast, self.plain

    def step(self, ways):
        if self.done == LONGEST:
            self.begin()
        self.done += 1
        way = self.random.choice(ways)
        self.log.append(way.__name__)
        way(self)
        self.compare()

    def compare(self):
        """Both answer, in one of four modes; then what they answered must agree."""
        mode = self.random.choice(["no_grad", "inference_mode", "no_grad", "grad", "threads", "backward", "train"])
        n, size = self.random.choice([(1, 32), (2, 32), (1, 64), (3, 33)])
        x = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(self.random.randrange(1 << 30)))
        self.log.append(f"{mode} {n}x{size}")
        answers = [self.answer(model, x, mode) for model in self.both]
        for got, want in zip(*answers, strict=True):
            scale = want.abs().max().clamp_min(1e-3)
            worst = ((got - want).abs().max() / scale).item()
            assert worst < 2e-3, f"{self.name}: off by {worst:.1e} after " + ", ".join(self.log[-2 * self.done :])

    def answer(self, model, x, mode):
        if mode == "no_grad":
            with torch.no_grad():
                return [model(x)]
        if mode == "inference_mode":
            with torch.inference_mode():
                return [model(x).clone()]
        if mode == "grad":
            return [model(x).detach()]
        if mode == "threads":
            return self.in_threads(model, x)
        model.train(mode == "train")
        torch.manual_seed(1)
        model.zero_grad()
        y = model(x)
        # gradients of all weights differ by more than a wrong answer does: their norms are compared
        loss = y.square().sum()
        loss.backward(retain_graph=True)
        model.zero_grad()
        loss.backward()  # a graph may be used more than once
        norms = [p.grad.norm() for _, p in sorted(model.named_parameters()) if p.grad is not None]
        model.eval()
        return [y.detach(), torch.stack(norms).sum()[None]]

    def in_threads(self, model, x):
        found = [None, None]

        def run(i):
            with torch.no_grad():
                found[i] = model(x)

        threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    # what ways of changing have in common

    def parameters(self):
        """The same parameter of both models, which lies where it did (no parametrisation holds it)."""
        names = [n for n, _ in self.plain.named_parameters() if "parametrizations" not in n and "_orig" not in n]
        name = self.random.choice([n for n in names if n in dict(self.fast.named_parameters())])
        return [(self.owner(model, name), name.rpartition(".")[2]) for model in self.both]

    @staticmethod
    def owner(model, name):
        return model.get_submodule(name.rpartition(".")[0])

    def change(self, function: Callable[[torch.Tensor, random.Random], object]):
        """Applies a function of a parameter and a generator of random numbers to the same parameter of both."""
        seed = self.random.randrange(1 << 30)
        for owner, name in self.parameters():
            function(getattr(owner, name), random.Random(seed))

    def modules(self, kinds):
        """The same module of both models, of one of these kinds."""
        names = [n for n, m in self.plain.named_modules() if isinstance(m, kinds) and n]
        found = [n for n in names if self._has(self.fast, n)]
        if not found:
            return None
        name = self.random.choice(found)
        return [model.get_submodule(name) for model in self.both], name

    @staticmethod
    def _has(model, name):
        try:
            model.get_submodule(name)
        except AttributeError:
            return False
        return True


def noise(p, draw, scale=0.3):
    g = torch.Generator().manual_seed(draw.randrange(1 << 30))
    return torch.randn(p.shape, generator=g).to(p) * scale


def place(p, draw):
    return tuple(draw.randrange(size) for size in p.shape)


# Weights, in ways that PyTorch's version counter sees, and in ways that it does not see.


def one_value(run):
    run.change(lambda p, draw: p.data.__setitem__(place(p, draw), draw.choice([0.0, 2.0, -3.0])))


def one_value_through_numpy(run):
    run.change(lambda p, draw: p.detach().numpy().__setitem__(place(p, draw), 2.0))


def a_row_cut_off(run):
    run.change(lambda p, draw: p.data[draw.randrange(p.shape[0])].zero_())


def clamped(run):
    run.change(
        lambda p, draw: p.data.clamp_(-1.5 * p.data.std() - 0.1, 1.5 * p.data.std() + 0.1) if p.numel() > 1 else None
    )


def two_values_exchanged(run):
    def exchange(p, draw):
        i, j = place(p, draw), place(p, draw)
        p.data[i], p.data[j] = p.data[j].item(), p.data[i].item()

    run.change(exchange)


def rows_permuted(run):
    def permute(p, draw):
        order = list(range(p.shape[0]))
        draw.shuffle(order)
        p.data.copy_(p.data[order])

    run.change(permute)


def signs_changed(run):
    run.change(lambda p, draw: p.data.neg_())


def noise_through_data(run):
    run.change(lambda p, draw: p.data.add_(noise(p, draw)))


def noise_in_place(run):
    def add(p, draw):
        with torch.no_grad():
            p.add_(noise(p, draw))

    run.change(add)


def moving_average(run):
    run.change(lambda p, draw: p.data.lerp_(noise(p, draw), 0.1))


def raw_memory(run):
    def write(p, draw):
        flat = torch.empty(0).set_(p.untyped_storage())
        flat[draw.randrange(flat.numel())] = 1.5

    run.change(write)


def another_memory(run):
    run.change(lambda p, draw: setattr(p, "data", p.data + noise(p, draw, 0.1)))


def other_strides(run):
    def stride(p, draw):
        if p.ndim == 2:
            p.data = p.data.t().contiguous().t()
        elif p.ndim == 1:
            p.data = torch.stack((p.data, p.data), dim=1)[:, 0]

    run.change(stride)


def another_parameter(run):
    seed = run.random.randrange(1 << 30)
    for owner, name in run.parameters():
        p = getattr(owner, name)
        setattr(owner, name, nn.Parameter(p.detach() + noise(p, random.Random(seed), 0.1)))


def swapped(run):
    seed = run.random.randrange(1 << 30)
    for owner, name in run.parameters():
        p = getattr(owner, name)
        other = nn.Parameter(p.detach() + noise(p, random.Random(seed), 0.1))
        p.grad = None
        torch.utils.swap_tensors(p, other)


def flat_vector(run):
    if not all(p.is_contiguous() for model in run.both for p in model.parameters()):
        return  # torch's function takes no other
    for model in run.both:
        names = sorted(dict(model.named_parameters()))
        held = dict(model.named_parameters())
        vector = nn.utils.parameters_to_vector([held[n] for n in names]).detach()
        nn.utils.vector_to_parameters(vector, [held[n] for n in names])
        vector[5:50] += 0.2


def loaded(run):
    states = [model.state_dict() for model in run.both]
    if set(states[1]) == set(run.start) == set(states[0]):
        for model in run.both:
            model.load_state_dict(run.start)


def loaded_by_assignment(run):
    states = [model.state_dict() for model in run.both]
    if set(states[1]) == set(run.start) == set(states[0]):
        for model in run.both:
            model.load_state_dict(copy.deepcopy(run.start), assign=True)


def to_float64_and_back(run):
    for model in run.both:
        model.double().float()


def trained(run):
    for model in run.both:
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        model.zero_grad()
        model(x).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def shared_memory(run):
    run.change(lambda p, draw: p.share_memory_())


def frozen_or_not(run):
    flag = run.random.random() < 0.5
    for owner, name in run.parameters():
        getattr(owner, name).requires_grad_(flag)


def channels_last(run):
    memory_format = run.random.choice([torch.channels_last, torch.contiguous_format])
    for model in run.both:
        model.to(memory_format=memory_format)


# Modules: hooks, replacements, wrappers.

LEAVES = (nn.Conv2d, nn.Linear, nn.GELU, nn.LayerNorm, nn.Dropout, nn.Identity)


def hook(run):
    found = run.modules(LEAVES)
    if found is None:
        return
    for m in found[0]:
        run.handles.append(m.register_forward_hook(lambda module, args, out: out * 0.9))


def pre_hook(run):
    found = run.modules((nn.Conv2d, nn.Linear))
    if found is None:
        return
    for m in found[0]:
        run.handles.append(m.register_forward_pre_hook(lambda module, args: (args[0] * 1.1,)))


def hook_on_a_container(run):
    found = run.modules((nn.Sequential,))
    if found is None:
        return
    for m in found[0]:
        run.handles.append(m.register_forward_hook(lambda module, args, out: out * 0.95))


def global_hook(run):
    def halve(module, args, out):
        return out * 0.9 if isinstance(module, nn.Linear) else None

    run.handles.append(nn.modules.module.register_module_forward_hook(halve))


def hooks_removed(run):
    for handle in run.handles:
        handle.remove()
    run.handles.clear()


def pruned(run):
    found = run.modules((nn.Conv2d, nn.Linear))
    if found is None or parametrize.is_parametrized(found[0][0]) or parametrize.is_parametrized(found[0][1]):
        return
    if not all(m.weight.is_contiguous() for m in found[0]):
        return  # torch's function takes no other
    for m in found[0]:
        if isinstance(m._parameters.get("weight"), nn.Parameter) or hasattr(m, "weight_orig"):
            prune.l1_unstructured(m, "weight", 0.2)


def pruning_made_permanent(run):
    for model in run.both:
        for m in model.modules():
            if hasattr(m, "weight_orig"):
                prune.remove(m, "weight")


class Doubled(nn.Module):
    def forward(self, weight):
        return weight * 1.5


def parametrised(run):
    found = run.modules((nn.Conv2d, nn.Linear))
    if found is None or any(hasattr(m, "weight_orig") or parametrize.is_parametrized(m) for m in found[0]):
        return
    for m in found[0]:
        parametrize.register_parametrization(m, "weight", Doubled())


def parametrisation_removed(run):
    for model in run.both:
        for m in list(model.modules()):
            if parametrize.is_parametrized(m):
                parametrize.remove_parametrizations(m, "weight")


def other_activation(run):
    found = run.modules((nn.GELU, nn.SiLU))
    if found is None:
        return
    _, name = found
    new = run.random.choice([nn.GELU, nn.SiLU, lambda: nn.GELU(approximate="tanh")])
    for model in run.both:
        setattr(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], new())


class LowRank(nn.Module):
    """As adapters wrap a linear layer."""

    def __init__(self, base, draw):
        super().__init__()
        self.base = base
        self.a, self.b = (
            nn.Parameter(noise(torch.empty(s), draw, 0.2)) for s in ((2, base.in_features), (base.out_features, 2))
        )

    def forward(self, x):
        return self.base(x) + x @ self.a.t() @ self.b.t()


def wrapped(run):
    found = run.modules((nn.Linear,))
    if found is None:
        return
    seed, name = run.random.randrange(1 << 30), found[1]
    for model in run.both:
        owner = model.get_submodule(name.rpartition(".")[0])
        setattr(owner, name.rpartition(".")[2], LowRank(model.get_submodule(name), random.Random(seed)))


def own_forward(run):
    found = run.modules((nn.Linear, nn.GELU))
    if found is None:
        return
    for m in found[0]:
        if "forward" in vars(m):
            del m.forward
        else:
            m.forward = lambda x, m=m: type(m).forward(m, x) * 0.9


# Models.


def copied(run):
    if not run.handles and not any("forward" in vars(m) for m in run.plain.modules()):  # a copy calls the original's
        try:
            plain = copy.deepcopy(run.plain)
        except RuntimeError:  # of a pruned weight, which was computed
            return
        run.fast, run.plain = copy.deepcopy(run.fast), plain


def pickled(run):
    if run.handles or any("forward" in vars(m) for m in run.plain.modules()):
        return
    if any(parametrize.is_parametrized(m) for model in run.both for m in model.modules()):
        return  # torch cannot

    def through(model):
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        return torch.load(file, weights_only=False)

    run.fast, run.plain = through(run.fast), through(run.plain)


def restored_and_accelerated(run):
    if run.name == "ours":
        return
    cf.restore(run.fast)
    if run.random.random() < 0.5:
        run.compare()
    cf.accelerate(run.fast)


def checkpointed(run):
    flag = run.random.random() < 0.5
    for model in run.both:
        if hasattr(model, "set_grad_checkpointing"):
            model.set_grad_checkpointing(flag)


def nothing(run):
    pass


WAYS = tuple(
    f
    for name, f in list(globals().items())
    if callable(f) and getattr(f, "__code__", None) and f.__code__.co_varnames[:1] == ("run",)
)


def drive(name, steps, seed=0):
    """Runs that many steps on one of :data:`NAMES`; AssertionError with what was done, at the first difference."""
    run = Run(name, seed)
    try:
        for _ in range(steps):
            run.step(WAYS)
    finally:
        hooks_removed(run)
    assert fusion.why_not_any() is None
    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", choices=NAMES, default=None)
    args = parser.parse_args()
    for name in [args.name] if args.name else NAMES:
        drive(name, args.steps // (1 if args.name else len(NAMES)), args.seed)
        print(f"{name}: no difference")
