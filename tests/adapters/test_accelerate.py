"""What must survive `accelerate`, whatever the model: here a small one of timm's."""

import copy
import io
import pickle
import sys
import threading
import time

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import convnextv2_fast as cf
from tests.adapters.judge import assert_equal_outputs, both, close
from tests.adapters.test_timm import V2, small, timm


@pytest.fixture
def model():
    return small(**V2).eval()


@pytest.fixture
def x():
    return torch.randn(2, 3, 64, 64)


def test_same_modules_parameters_and_state(model):
    before = {name: (id(m), m.training) for name, m in model.named_modules()}
    tensors = {name: (id(p), p.data_ptr()) for name, p in model.state_dict(keep_vars=True).items()}
    text = repr(model)
    cf.accelerate(model)
    assert before == {name: (id(m), m.training) for name, m in model.named_modules()}
    assert tensors == {name: (id(p), p.data_ptr()) for name, p in model.state_dict(keep_vars=True).items()}
    assert repr(model) == text
    block = model.stages[0].blocks[0]
    assert isinstance(block, timm.models.convnext.ConvNeXtBlock) and type(block).__name__ == "ConvNeXtBlock"
    assert not model.train().stages[0].blocks[0].eval().training


def test_restore(model, x):
    want = model(x)
    classes = [type(m) for m in model.modules()]
    count = len(cf.accelerate(model).replaced)
    assert len(cf.accelerate(model).replaced) == count  # once more: nothing changes
    assert cf.restore(model) == count and cf.restore(model) == 0
    assert classes == [type(m) for m in model.modules()]
    assert torch.equal(model(x), want)


@pytest.mark.parametrize("copied", ["deepcopy", "pickle", "save"])
def test_copies(model, x, copied):
    cf.accelerate(model)
    with torch.no_grad():
        want = model(x)
        if copied == "deepcopy":
            other = copy.deepcopy(model)
        elif copied == "pickle":
            other = pickle.loads(pickle.dumps(model))
        else:
            file = io.BytesIO()
            torch.save(model, file)
            file.seek(0)
            other = torch.load(file, weights_only=False)
        assert [type(m) for m in other.modules()] == [type(m) for m in model.modules()]
        for p in model.parameters():
            p.zero_()
        assert torch.equal(other(x), want)
    assert cf.restore(other) == 9


def test_hooks_on_a_block_fire(model, x):
    seen = []
    block = model.stages[2].blocks[1]
    block.register_forward_hook(lambda m, args, y: seen.append(y.shape))
    cf.accelerate(model)
    block.register_forward_pre_hook(lambda m, args: seen.append(args[0].shape))
    block.register_full_backward_hook(lambda m, into, out: seen.append(out[0].shape))
    model(x).sum().backward()
    assert seen == [(2, 24, 4, 4)] * 3


@pytest.mark.parametrize("where", ["conv_dw", "norm", "mlp", "mlp.fc1", "mlp.grn", "mlp.fc2"])
def test_hooks_inside_a_block_fire(model, x, where):
    """The hooked half runs as modules, so the hook sees what it would have seen, and may change it."""
    plain, fast, _ = both(model)
    for m in (plain, fast):
        m.stages[0].blocks[0].get_submodule(where).register_forward_hook(lambda m, args, y: 2 * y)
    assert_equal_outputs(plain, fast, x)
    assert any("has hooks" in r.reason for r in cf.accelerate(fast).not_replaced)


def test_global_hooks_see_every_module(model, x):
    """The shortcut too, which is an Identity."""
    plain, fast, _ = both(model)
    calls = []
    for m in (plain, fast):
        seen = []
        handle = nn.modules.module.register_module_forward_hook(
            lambda m, args, y, seen=seen: seen.append(type(m).__name__) or (y * 1.5 if type(m) is nn.Identity else None)
        )
        seen.append(m(x))
        handle.remove()
        calls.append(seen)
    assert torch.equal(calls[0].pop(), calls[1].pop())
    assert [name for name in calls[1]] == calls[0] and calls[0].count("GlobalResponseNorm") == 5


class Adapter(nn.Linear):
    """A linear layer with a low-rank adapter, as fine-tuning libraries put it in place of the layer."""

    def __init__(self, of):
        super().__init__(of.in_features, of.out_features)
        self.load_state_dict(of.state_dict())
        self.a, self.b = nn.Parameter(torch.randn(2, of.in_features)), nn.Parameter(torch.randn(of.out_features, 2))

    def forward(self, x):
        return super().forward(x) + x @ self.a.T @ self.b.T


@pytest.mark.parametrize("change", ["adapter", "weight_norm", "instance_forward", "frozen"])
def test_later_changes_are_respected(model, x, change):
    plain, fast, _ = both(model)
    for m in (plain, fast):
        mlp = m.stages[0].blocks[0].mlp
        torch.manual_seed(1)
        if change == "adapter":
            mlp.fc1 = Adapter(mlp.fc1)
        elif change == "weight_norm":
            parametrizations.weight_norm(mlp.fc2)
        elif change == "instance_forward":
            mlp.fc1.forward = lambda u, w=mlp.fc1.weight: u @ w.T
        else:
            mlp.fc1.requires_grad_(False)
    if change == "instance_forward":
        with torch.no_grad():
            close(fast(x), plain(x), 2e-5, "output")
    else:
        assert_equal_outputs(plain, fast, x)


def test_quantised_linear_layers_run(model, x):
    plain, fast, _ = both(model)
    quantised = [torch.ao.quantization.quantize_dynamic(m, {nn.Linear}) for m in (plain, fast)]
    with torch.no_grad():
        close(quantised[1](x), quantised[0](x), 1e-3, "output")


def test_derived_classes_and_replaced_forwards_stay():
    class Mine(timm.models.convnext.ConvNeXtBlock):
        def forward(self, x):
            return x

    model = nn.Sequential(Mine(8), timm.models.convnext.ConvNeXtBlock(8), timm.models.convnext.ConvNeXtBlock(8))
    model[1].forward = lambda x: x
    report = cf.accelerate(model)
    assert [r.name for r in report.replaced] == ["2"]
    assert [(r.name, r.reason) for r in report.not_replaced] == [
        ("0", "a class derived from ConvNeXtBlock"),
        ("1", "has a forward of its own"),
    ]
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(model[:2](x), x)


def test_an_unknown_version_of_a_library_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "convnextv2_fast.adapters.timm", None)
    report = cf.accelerate(small(**V2))
    assert not any(r.cls == "ConvNeXtBlock" for r in report.replaced)
    assert "timm's modules were left alone, this version of timm is not known" in str(report)


def test_nothing_to_do():
    with pytest.warns(UserWarning, match="no ConvNeXt module in this Linear"):
        report = cf.accelerate(nn.Linear(2, 2))
    assert not report.replaced
    with pytest.raises(cf.UnsupportedInputError, match=r"accelerate: wants an nn\.Module, got dict"):
        cf.accelerate({})


def test_training_steps_are_the_same(x):
    """Ten steps of AdamW that began before `accelerate`, state kept."""
    losses, start = {}, small(**V2).train()
    for kind in ("plain", "fast"):
        model = copy.deepcopy(start)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        losses[kind] = []
        for step in range(10):
            if step == 3 and kind == "fast":
                cf.accelerate(model)
            loss = nn.functional.cross_entropy(model(x), torch.tensor([0, 1]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[kind].append(loss.item())
    assert losses["fast"] == pytest.approx(losses["plain"], rel=1e-4)


@pytest.mark.parametrize("v", [V2, {"ls_init_value": 0.3}, V2 | {"conv_mlp": True}])
def test_packed_weights_follow_every_change(x, v):
    """In place, through `.data`, by load_state_dict; layer scale and 1x1 convolutions too."""
    model = small(**v).eval()
    plain = copy.deepcopy(model)
    cf.accelerate(model)
    with torch.no_grad():
        model(x)
        for change in (lambda p: p.mul_(1.1), lambda p: p.data.mul_(0.9), lambda p: setattr(p, "data", p.data * 1.2)):
            for p in model.parameters():
                change(p)
            plain.load_state_dict(model.state_dict())
            close(model(x), plain(x), 2e-5, "output")
    with torch.inference_mode():
        close(model(x), plain(x), 2e-5, "inference mode")


def test_threads_share_a_model(model, x):
    cf.accelerate(model)
    with torch.no_grad():
        want = model(x)
    results = []

    def work():
        with torch.no_grad():
            results.extend(torch.equal(model(x), want) for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 40


def test_it_is_quick_and_copies_nothing():
    with torch.device("meta"):  # a copy of a weight would show as time and memory; here it cannot even be made
        model = timm.create_model("convnextv2_huge")
    start = time.process_time()
    report = cf.accelerate(model)
    assert time.process_time() - start < 1
    assert len(report.replaced) == 4 + 36 and not report.not_replaced
