"""Blocks of users' own files that look like upstream's: what is fused is exactly what computes the same, whatever the
instance, the mode, and what is changed later; the rest runs its own code, and the report says why."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convnextv2_fast as cf
from convnextv2_fast.models.utils import DropPath
from convnextv2_fast.testing import randomise
from tests import peers
from tests.adapters import written_like_upstream as upstream
from tests.adapters.judge import close

peers.timm()

UNDROPPED = "self.pwconv2(self.grn(self.act(self.pwconv1(self.norm(self.dwconv(x).permute(0, 2, 3, 1))))))"


def forward_of(code, **space):
    """A function `forward(self, x)` with this body."""
    space = {"torch": torch, "F": F, **space}
    exec("def forward(self, x):\n    " + code.replace("\n", "\n    "), space)
    return space["forward"]


def block_class(code, **names):
    """A class Block with this forward, in which y is what drop path takes."""
    code = f"y = {UNDROPPED}.permute(0, 3, 1, 2)\n{code}"
    return type("Block", (upstream.Block,), {"forward": forward_of(code)} | names)


def norm_class(code, base=upstream.LayerNorm):
    return type(base.__name__, (base,), {"forward": forward_of(code)})


class WholeBatchOrNothing(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.drop_prob = p

    def forward(self, x):
        return x * (torch.rand(()) >= self.drop_prob) if self.training else x


def closure():
    factor = 0.1

    def forward(self, x):
        return upstream.Block.forward(self, x) * factor

    return type("Block", (upstream.Block,), {"forward": forward})


def decorated():
    cls = block_class("return x + self.drop_path(y)")
    cls.forward = torch.no_grad()(cls.forward)
    return cls


def with_call():
    return type("Block", (upstream.Block,), {"__call__": lambda self, x: 2 * nn.Module.__call__(self, x)})


BLOCKS = {  # (class, why it is left alone)
    "as upstream": (lambda: block_class("return x + self.drop_path(y)"), None),
    "otherwise written": (lambda: block_class("shortcut = x\nx = self.drop_path(y)\nreturn x.add(shortcut)"), None),
    "a factor of 1": (lambda: block_class("return x + self.scale * self.drop_path(y)", scale=1.0), None),
    "a factor": (lambda: block_class("return x + self.scale * self.drop_path(y)", scale=0.1), "something else"),
    "a factor in the code": (lambda: block_class("return x + 0.1 * self.drop_path(y)"), "something else"),
    "dropout": (lambda: block_class("return x + self.drop_path(F.dropout(y, 0.5, self.training))"), "uses dropout"),
    "noise": (lambda: block_class("return x + self.drop_path(y + torch.randn(()))"), "uses randn"),
    "a mode": (
        lambda: block_class("return x + self.drop_path(y) if self.training else x + 2 * self.drop_path(y)"),
        None,  # as upstream in training, and judged anew in evaluation
    ),
    "a size": (lambda: block_class("return x + self.drop_path(y) if x.shape[2] < 6 else x"), "uses shape"),
    "a value": (lambda: block_class("return x + self.drop_path(y) if x.mean() else x"), "decides by the values"),
    "a comparison": (lambda: block_class("x = x + self.drop_path(y)\nreturn x * (x < 50)"), "COMPARE_OP"),
    "a comparison of numbers": (lambda: block_class("x = x + self.drop_path(y)\nreturn x * (x != 0)"), "COMPARE_OP"),
    "a crop": (lambda: block_class("x = x + self.drop_path(y)\nreturn x[:, :, :8, :8]"), "more in it"),
    "some samples": (lambda: block_class("x = x + self.drop_path(y)\nreturn x[:64]"), "more in it"),
    "an index": (lambda: block_class("x = x + self.drop_path(y)\nreturn x[None][0]"), "more in it"),
    "a remainder": (lambda: block_class("x = x + self.drop_path(y)\nreturn x % 1000"), "more in it"),
    "a dtype": (lambda: block_class("return x + self.drop_path(y.float())"), "uses float"),
    "a global": (lambda: type("Block", (upstream.Block,), {"forward": forward_of("return x * G", G=2)}), "uses G"),
    "a flag": (lambda: block_class("return x if hasattr(self, 'off') else x + self.drop_path(y)"), None),
    "a flag set": (
        lambda: block_class("return x if hasattr(self, 'off') else x + self.drop_path(y)", off=1),
        "random numbers",
    ),
    "a state": (lambda: block_class("self.calls = 1\nreturn x + self.drop_path(y)"), "STORE_ATTR"),
    "its input": (lambda: block_class("x += self.drop_path(y)\nreturn x"), "trying it out failed: RuntimeError"),
    "a property": (lambda: block_class("return x + self.s * y", s=property(lambda self: 0.1)), "the class computes"),
    "a tensor": (lambda: block_class("return x + self.s * self.drop_path(y)", s=torch.ones(1)), "reads s, a tensor"),
    "a module less": (lambda: block_class("return x + y"), "draws other random numbers"),
    "a module twice": (lambda: block_class("self.act(x)\nreturn x + self.drop_path(y)"), "each of its modules once"),
    "no residual": (lambda: upstream.WithoutResidual, "super()"),
    "a closure": (closure, "variables of another function"),
    "a decorator": (decorated, "wrapped in another function"),
    "an error": (lambda: upstream.ThatRaises, "uses RuntimeError"),
    "a call": (with_call, "a __call__ of its own"),
    "two arguments": (lambda: type("Block", (upstream.Block,), {"forward": lambda self, x, y=1: x}), "one argument"),
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks(kind):
    make, why = BLOCKS[kind]
    model = nn.Sequential(randomise(make()(8, drop_path=0.5), 0)).train()
    fast = copy.deepcopy(model)
    report = cf.accelerate(fast)
    if why is None:
        assert [r.runs_as for r in report.replaced] == ["dwconv_layer_norm + mlp_grn"] and not report.not_replaced
    else:
        assert not report.replaced and [why in r.reason for r in report.not_replaced] == [True], report
    if kind not in ("an error", "its input"):
        assert_the_same(model, fast)


def assert_the_same(model, fast, channels=8):
    """In training and in evaluation: values, gradients, and the random numbers afterwards."""
    for training in (True, False):
        results = []
        for m in (model, fast):
            m.train(training).zero_grad()
            x = torch.randn(4, channels, 8, 8, generator=torch.Generator().manual_seed(2)).requires_grad_()
            torch.manual_seed(3)
            y = m(x)
            drawn = torch.rand(())
            if y.requires_grad:
                y.square().sum().backward()
            results.append((y, drawn, {name: p.grad for name, p in m.named_parameters()} | {"x": x.grad}))
        assert torch.equal(results[0][1], results[1][1])
        close(results[1][0], results[0][0], 2e-5, "output")
        for name, want in results[0][2].items():
            got = results[1][2][name]
            assert (got is None) == (want is None)
            if want is not None:
                close(got, want, 1e-4, name)


def test_instances_are_told_apart():
    cls = block_class("return x + self.scale * self.drop_path(y)", scale=1.0)
    model = nn.Sequential(*(randomise(cls(8), i) for i in range(3)))
    model[1].scale = 0.1
    fast = copy.deepcopy(model)
    assert [r.name for r in cf.accelerate(fast).replaced] == ["0", "2"]
    assert_the_same(model, fast)


DROP_PATHS = {  # (drop path, whether the half with it is fused)
    "timm": (lambda: __import__("timm").layers.DropPath(0.5), True),
    "timm, unscaled": (lambda: __import__("timm").layers.DropPath(0.5, scale_by_keep=False), True),
    "torchvision, row": (lambda: peers.torchvision().ops.StochasticDepth(0.5, "row"), True),
    "torchvision, batch": (lambda: peers.torchvision().ops.StochasticDepth(0.5, "batch"), True),
    "this library's": (lambda: DropPath(0.5), True),
    "transformers": (lambda: _transformers()(0.5), True),
    "one's own": (lambda: WholeBatchOrNothing(0.5), False),
    "one's own of a known name": (lambda: _renamed()(0.5), False),
    "identity": (nn.Identity, True),
    "dropout": (lambda: nn.Dropout(0.5), False),
}


def _transformers():
    peers.transformers()
    from transformers.models.convnextv2.modeling_convnextv2 import ConvNextV2DropPath

    return ConvNextV2DropPath


def _renamed():
    return type("DropPath", (WholeBatchOrNothing,), {"__module__": "timm.layers.drop", "__qualname__": "DropPath"})


@pytest.mark.parametrize("kind", DROP_PATHS)
def test_drop_paths(kind):
    make, fused = DROP_PATHS[kind]
    model = nn.Sequential(randomise(upstream.Block(8), 0))
    model[0].drop_path = make()
    fast = copy.deepcopy(model).train()
    report = cf.accelerate(fast)
    assert [r.runs_as for r in report.replaced] == ["dwconv_layer_norm" + (" + mlp_grn" if fused else "")]
    assert_the_same(model, fast)


NORMS = {  # (attribute of the block, class in its place, why it is not fused)
    "without a mean": (
        "norm",
        lambda: norm_class("return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True))"),
        "computes",
    ),
    "eps beside the root": (
        "norm",
        lambda: norm_class(
            "x = x - x.mean(-1, keepdim=True)\n"
            "return self.weight * x / (x.pow(2).mean(-1, keepdim=True).sqrt() + self.eps) + self.bias"
        ),
        "something else",
    ),
    "another eps": (
        "norm",
        lambda: norm_class("return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, 2e-6)"),
        "something else",
    ),
    "torch's function": (
        "norm",
        lambda: norm_class("return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)"),
        None,
    ),
    "larger eps": ("grn", lambda: upstream.LargerEps, "something else"),
    "no residual": (
        "grn",
        lambda: norm_class(
            "n = torch.norm(x, p=2, dim=(1, 2), keepdim=True)\n"
            "return self.gamma * (x * (n / (n.mean(dim=-1, keepdim=True) + 1e-6))) + self.beta",
            upstream.GRN,
        ),
        "something else",
    ),
    "vector_norm": (
        "grn",
        lambda: norm_class(
            "n = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)\n"
            "return self.gamma * (x * (n / (n.mean(-1, True) + 1e-6))) + self.beta + x",
            upstream.GRN,
        ),
        None,
    ),
}


def _put(block, name, cls):
    setattr(block, name, cls(8 if name == "norm" else 32))
    randomise(block, 1)


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", NORMS)
def test_norms_and_grns(kind, late):
    """In a block when it is accelerated, and put into it afterwards."""
    name, make, why = NORMS[kind]
    model = nn.Sequential(randomise(upstream.Block(8), 0))
    fast, cls = copy.deepcopy(model), make()
    if late:
        cf.accelerate(fast)
    for m in (model, fast):
        _put(m[0], name, cls)
    report = cf.accelerate(fast)
    op = "dwconv_layer_norm" if name == "norm" else "mlp_grn"
    left = [r.reason for r in report.not_replaced]
    assert [reason.startswith(f"not {op}: ") and str(why) in reason for reason in left] == [True] * (why is not None)
    assert [op in r.runs_as for r in report.replaced] == [why is None]
    assert_the_same(model, fast)


def test_a_norm_of_planes_that_computes_something_else_is_left_alone():
    code = "return self.weight[:, None, None] * x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + self.eps)"
    model = upstream.ConvNeXtV2()
    model.downsample_layers[0][1] = norm_class(code)(8, data_format="channels_first")
    fast = copy.deepcopy(model)
    report = cf.accelerate(fast)
    assert [(r.name, "something else" in r.reason) for r in report.not_replaced] == [("downsample_layers.0", True)]
    assert_the_same(model, fast, 3)


CHANGES = {  # each takes a block, and the class that it has for its user
    "a factor": lambda block, cls: setattr(block, "scale", 0.1),
    "a factor in the class": lambda block, cls: setattr(cls, "scale", 0.1),
    "a flag": lambda block, cls: setattr(block, "off", True),
    "the forward in the class": lambda block, cls: setattr(cls, "forward", forward_of("return 2 * x")),
    "eps of GRN": lambda block, cls: setattr(block.grn, "denominator", 1e-2),
    "eps of GRN in its class": lambda block, cls: setattr(type(block.grn), "denominator", 1e-2),
    "eps of the norm": lambda block, cls: setattr(block.norm, "eps", 1e-2),
    "the norm's forward in its class": lambda block, cls: setattr(type(block.norm), "forward", forward_of("return x")),
    "GRN's forward in its class": lambda block, cls: setattr(type(block.grn), "forward", forward_of("return x")),
    "the activation": lambda block, cls: setattr(block, "act", nn.SiLU()),
    "the norm": lambda block, cls: setattr(block, "norm", nn.Identity()),
    "drop path": lambda block, cls: setattr(block, "drop_path", WholeBatchOrNothing(0.5)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_changed_after_accelerate_takes_effect(change):
    cls = block_class("return x if hasattr(self, 'off') else x + self.scale * self.drop_path(y)", scale=1.0)
    block = cls(8)
    block.norm = type("LayerNorm", (upstream.LayerNorm,), {})(8)  # classes that may be changed here
    block.grn = type("GRN", (upstream.GRN,), {})(32)
    model = nn.Sequential(randomise(block, 0))
    fast = copy.deepcopy(model)
    assert [r.runs_as for r in cf.accelerate(fast).replaced] == ["dwconv_layer_norm + mlp_grn"]
    assert_the_same(model, fast)
    for m in (model, fast):
        CHANGES[change](m[0], cls)
    assert_the_same(model, fast)


def test_trials_leave_no_trace():
    """Random numbers, hooks and modes of the caller are not touched, and nothing of the model is called."""
    cls = block_class("return x + self.drop_path(y)")
    called = []
    model = nn.Sequential(randomise(cls(8), 0))
    model[0].norm.register_forward_hook(lambda *_: called.append(1))
    state = torch.random.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu"):
        report = cf.accelerate(model)
    assert torch.equal(torch.random.get_rng_state(), state) and not called
    assert [r.runs_as for r in report.replaced] == ["mlp_grn"]


def test_a_model_loaded_in_another_process_is_judged_again(monkeypatch):
    from convnextv2_fast import ops
    from convnextv2_fast.adapters import upstream as adapter

    model = nn.Sequential(randomise(upstream.Block(8), 0))
    cf.accelerate(model)
    for judge in (adapter.BLOCKS, adapter.NORMS, adapter.GRNS):
        monkeypatch.setattr(judge, "_verdicts", {})
    calls, block = [], ops.block
    monkeypatch.setattr(ops, "block", lambda *a, **k: (calls.append(1), block(*a, **k))[1])
    model(torch.randn(1, 8, 8, 8))
    assert calls == [1]


def test_a_model_may_first_be_seen_under_other_modes():
    """A verdict that a mode of the caller's would have changed is not kept."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    for mode in (FakeTensorMode(), torch.device("meta")):
        cls = block_class("return x + self.drop_path(y)")  # not seen before
        with mode:
            report = cf.accelerate(nn.Sequential(cls(8, drop_path=0.5)))
        assert [r.runs_as for r in report.replaced] == ["dwconv_layer_norm + mlp_grn"], report
