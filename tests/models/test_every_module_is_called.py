"""Every module of the models is asked: hooks on it fire, a module in its place runs, in all modes."""

import copy

import pytest
import torch
import torch.nn.utils.prune as prune
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import convnextv2_fast as cf
from convnextv2_fast.layouts import SparseTensor
from convnextv2_fast.models.convnextv2_sparse import SparseConvNeXtV2
from convnextv2_fast.testing import randomise

SMALL = {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}
X, MASK = torch.randn(2, 3, 64, 64), torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1]])


def dense():
    return randomise(cf.ConvNeXtV2(num_classes=3, **SMALL), 0)


def sparse():
    return randomise(SparseConvNeXtV2(grn_scope="sample", **SMALL), 0)


def run(model):
    return model(X, MASK) if isinstance(model, SparseConvNeXtV2) else model(X)


def names(model):
    """Of all modules that are called: ModuleList has no forward."""
    return [name for name, m in model.named_modules() if not isinstance(m, nn.ModuleList)]


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
@pytest.mark.parametrize("build", [dense, sparse])
def test_hooks_on_one_module_fire_once(build, kind):
    model, fired = build().train(), []
    want = run(model)
    for name in names(model):
        if build is sparse and "backward" in kind and name:  # torch asks for tensors there, and these take SparseTensor
            continue
        register = getattr(model.get_submodule(name), f"register_{kind}_hook")
        handle = register(lambda *_, name=name: fired.append(name))
        y = run(model)
        y.sum().backward()
        handle.remove()
        assert fired == [name]
        fired.clear()
        torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-5)


def flipped(y):
    """Maps or sparse rows with their channels in another order; a factor would be lost in the next norm."""
    return y.replace(y.F.flip(1)) if isinstance(y, SparseTensor) else y.flip(1)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("build", [dense, sparse])
def test_a_stage_is_asked(build, checkpointing):
    """A hook on it, a forward of its own, another class in its place; also while blocks are recomputed."""

    class Flipped(nn.Sequential):
        def forward(self, x):
            y = super().forward(x)
            return flipped(y)

    start, results = build().train(), []
    for change in ("hook", "forward", "class"):
        model = copy.deepcopy(start)
        model.set_grad_checkpointing(checkpointing)
        stage = model.stages[1]
        if change == "hook":
            stage.register_forward_hook(lambda m, args, y: flipped(y))
        elif change == "forward":
            stage.forward = lambda x, stage=stage: Flipped.forward(Flipped(*stage), x)
        else:
            model.stages[1] = Flipped(*stage)
        y = run(model)
        y.sum().backward()
        results.append(y)
        assert all(p.grad is not None for p in stage.parameters())
    plain = run(start)
    for y in results:
        torch.testing.assert_close(y, results[0])
        assert (y - plain).abs().max() > 1e-3


class Other(nn.Module):
    def __init__(self, stem):
        super().__init__()
        self.stem = stem

    def forward(self, x):
        return -self.stem(x)


@pytest.mark.parametrize("build", [dense, sparse])
def test_a_stem_of_ones_own_is_called(build):
    model = build().eval()
    want = run(model)
    model.downsample_layers[0] = Other(model.downsample_layers[0])
    assert (run(model) - want).abs().max() > 1e-3
    model.downsample_layers[0].stem.append(nn.Identity())
    run(model)
    with pytest.raises(cf.UnsupportedInputError, match=r"images \[N, 3, H, W\]"):
        model(X[:, :2])


STEM, MLP = "downsample_layers.0.0", "stages.1.0.pwconv1"
REPARAMETRISATIONS = {
    "pruning": lambda m: prune.random_unstructured(m, "weight", 0.5),
    "weight_norm": weight_norm,
    "spectral_norm": spectral_norm,
    "parametrized weight_norm": parametrizations.weight_norm,
    "parametrized spectral_norm": parametrizations.spectral_norm,
}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("kind", REPARAMETRISATIONS)
@pytest.mark.parametrize("name", [STEM, MLP])
@pytest.mark.parametrize("build", [dense, sparse])
def test_reparametrised_layers_train(build, name, kind):
    model = build().train()
    layer = model.get_submodule(name)
    REPARAMETRISATIONS[kind](layer if hasattr(layer, "weight") else layer.linear)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    outputs = []
    for _ in range(3):  # the second step fails where a weight of the first one is read
        y = run(model)
        outputs.append(y.detach())
        optimizer.zero_grad()
        y.square().mean().backward()
        optimizer.step()
    assert not torch.equal(outputs[1], outputs[2]) and outputs[2].isfinite().all()


@pytest.mark.parametrize("build", [dense, sparse])
def test_a_summary_by_hooks_lists_every_module(build):
    """As torchinfo and its like make one: a hook on each module, one forward pass, then the hooks are removed."""
    model, seen = build().eval(), []
    want = run(model)
    handles = [
        m.register_forward_hook(lambda m, args, y, name=name: seen.append(name)) for name, m in model.named_modules()
    ]
    y = run(model)
    assert sorted(seen) == sorted(names(model))
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-5)
    for handle in handles:
        handle.remove()
    assert torch.equal(run(model), want)
