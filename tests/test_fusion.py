"""May a fused op stand for these modules: every reason why not, in words; and each half of a block on its own."""

import copy
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations
from torch.testing._internal.two_tensor import TwoTensor

import convnextv2_fast as cf
from convnextv2_fast import changes, fusion, ops
from convnextv2_fast.layouts import PatchLayout, SparseTensor
from convnextv2_fast.models.convnextv2 import Block, PatchConv
from convnextv2_fast.models.convnextv2_sparse import Block as SparseBlock
from convnextv2_fast.models.convnextv2_sparse import SparseConvNeXtV2, SparsePatchConv
from convnextv2_fast.models.minkowski import MinkowskiConvolution
from convnextv2_fast.models.utils import LayerNorm, MinkowskiLayerNorm
from convnextv2_fast.testing import randomise
from tests import peers
from tests.adapters import written_like_upstream
from tests.adapters.judge import close

FIRST, SECOND, PATCH = "dwconv_layer_norm", "mlp_grn", "patch_conv"
CONV, NORM, GRN, DROP_PATH = "the convolution", "the norm", "GRN", "drop path"
FC1, ACT, FC2 = "the first linear layer", "the activation", "the second linear layer"


def dense():
    return randomise(Block(8, 0.5), 0).eval()


def sparse():
    return randomise(SparseBlock(8, 0.5), 0).eval()


def timm():
    peers.timm()
    from timm.models.convnext import ConvNeXtBlock

    return randomise(ConvNeXtBlock(8, use_grn=True, ls_init_value=None, drop_path=0.5), 0).eval()


def upstream():
    peers.timm()
    return randomise(written_like_upstream.Block(8, drop_path=0.5), 0).eval()


def transformers():
    library = peers.transformers()
    from transformers.models.convnextv2.modeling_convnextv2 import ConvNextV2Layer

    return randomise(ConvNextV2Layer(library.ConvNextV2Config(), 8, 0.5), 0).eval()


def stem():
    return PatchConv(nn.Conv2d(3, 8, 4, 4), LayerNorm(8, data_format="channels_first"))


def downsampling():
    return PatchConv(LayerNorm(8, data_format="channels_first"), nn.Conv2d(8, 16, 2, 2))


def sparse_downsampling():
    return SparsePatchConv(MinkowskiLayerNorm(8), MinkowskiConvolution(8, 16, bias=True))


PARTS = {  # (op, how reasons call it) of each sub-module
    dense: {
        "dwconv": (FIRST, CONV),
        "norm": (FIRST, NORM),
        "pwconv1": (SECOND, FC1),
        "act": (SECOND, ACT),
        "grn": (SECOND, GRN),
        "pwconv2": (SECOND, FC2),
        "drop_path": (SECOND, DROP_PATH),
    },
    sparse: {
        "dwconv": (FIRST, CONV),
        "norm": (FIRST, NORM),
        "norm.ln": (FIRST, NORM),
        "pwconv1": (SECOND, FC1),
        "pwconv1.linear": (SECOND, FC1),
        "act": (SECOND, ACT),
        "act.module": (SECOND, ACT),
        "grn": (SECOND, GRN),
        "pwconv2": (SECOND, FC2),
        "pwconv2.linear": (SECOND, FC2),
        "drop_path": (SECOND, DROP_PATH),
    },
    timm: {
        "conv_dw": (FIRST, CONV),
        "norm": (FIRST, NORM),
        "mlp": (SECOND, "the MLP"),
        "mlp.fc1": (SECOND, FC1),
        "mlp.act": (SECOND, ACT),
        "mlp.drop1": (SECOND, "dropout"),
        "mlp.grn": (SECOND, GRN),
        "mlp.fc2": (SECOND, FC2),
        "mlp.drop2": (SECOND, "dropout"),
        "drop_path": (SECOND, DROP_PATH),
    },
    transformers: {
        "dwconv": (FIRST, CONV),
        "layernorm": (FIRST, NORM),
        "pwconv1": (SECOND, FC1),
        "act": (SECOND, ACT),
        "grn": (SECOND, GRN),
        "pwconv2": (SECOND, FC2),
        "drop_path": (SECOND, DROP_PATH),
    },
    upstream: {
        "dwconv": (FIRST, CONV),
        "norm": (FIRST, NORM),
        "pwconv1": (SECOND, FC1),
        "act": (SECOND, ACT),
        "grn": (SECOND, GRN),
        "pwconv2": (SECOND, FC2),
        "drop_path": (SECOND, DROP_PATH),
    },
    stem: {"0": (PATCH, CONV), "1": (PATCH, NORM)},
    downsampling: {"0": (PATCH, NORM), "1": (PATCH, CONV)},
    sparse_downsampling: {"0": (PATCH, NORM), "0.ln": (PATCH, NORM), "1": (PATCH, CONV)},
}
BLOCKS = (dense, sparse, timm, upstream, transformers)
EVERY = [(build, name) for build, parts in PARTS.items() for name in parts]


def reasons(module):
    """The reasons that `accelerate` reports, without the ops' names, and the ops that run."""
    report = cf.accelerate(module)
    left = [r.reason for r in report.not_replaced if not r.name]
    fused = {op for r in report.replaced if not r.name for op in r.runs_as.split(" + ")}
    if hasattr(module, "parts"):  # ours
        fused = set(fusion.inspect(module.parts()).ops)
    return left, fused


def all_ops(build):
    return {FIRST, SECOND} if build in BLOCKS else {PATCH}


def maps(build):
    """What a module takes."""
    if build not in (sparse, sparse_downsampling):
        return torch.randn(4, 3 if build is stem else 8, 8, 8)
    layout = PatchLayout.from_mask(torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1]]), 4)
    return SparseTensor(torch.randn(layout.rows, 8), layout)


def rows(y):
    return y.F if isinstance(y, SparseTensor) else y


@contextmanager
def hooks_on_all_modules():
    """In here every module is called."""
    handle = register_module_forward_hook(lambda *_: None)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def counted(monkeypatch):
    """The ops that blocks call in here. A whole block, which has an operator of its own, is not among them."""
    calls = []
    with monkeypatch.context() as patch:
        for name in (FIRST, SECOND, PATCH):
            op = getattr(ops, name)
            patch.setattr(ops, name, lambda *a, op=op, name=name, **k: (calls.append(name), op(*a, **k))[1])
        yield calls


@pytest.mark.parametrize("build", PARTS)
def test_untouched_modules_are_fused(build):
    assert reasons(build()) == ([], all_ops(build))


@pytest.mark.parametrize("build, name", EVERY)
def test_a_hook_on_any_module_is_seen_and_fires(build, name):
    module, (op, called) = build(), PARTS[build][name]
    x = maps(build)
    want = rows(module(x))
    cf.accelerate(module)
    fired = []
    module.get_submodule(name).register_forward_hook(lambda *_: fired.append(name))
    torch.testing.assert_close(rows(module(x)), want, rtol=1e-4, atol=1e-5)
    assert fired == [name]
    assert reasons(module) == ([f"not {op}: {called} has hooks"], all_ops(build) - {op})


class Other(nn.Module):
    def forward(self, x):
        return x


@pytest.mark.parametrize("build, name", EVERY)
def test_a_replaced_module_is_seen(build, name):
    module, (op, called) = build(), PARTS[build][name]
    if build is timm and name == "mlp":
        op = None
    cf.accelerate(module)
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, Other())
    left, fused = reasons(module)
    assert len(left) == 1 and "Other" in left[0]
    if op is None:
        assert left == ["its MLP is a Other"] and not fused
    else:
        assert called in left[0] and fused == all_ops(build) - {op}


@pytest.mark.parametrize("build, name", EVERY)
def test_a_forward_of_its_own_is_seen(build, name):
    module, (op, called) = build(), PARTS[build][name]
    part = module.get_submodule(name)
    part.forward = part.forward
    assert reasons(module) == ([f"not {op}: {called} has a forward of its own"], all_ops(build) - {op})


CLASSES = {  # a class for each way in which it came to its forward
    "torch's": (dense, "pwconv1", FC1, SECOND),
    "this library's": (dense, "norm", NORM, FIRST),
    "this library's sparse": (sparse, "norm.ln", NORM, FIRST),
    "timm's": (timm, "mlp.grn", GRN, SECOND),
    "transformers'": (transformers, "layernorm", NORM, FIRST),
}


@pytest.mark.parametrize("early", [False, True], ids=["late", "early"])
@pytest.mark.parametrize("which", CLASSES)
def test_a_forward_put_into_a_class_is_seen(which, early, monkeypatch):
    """As libraries do that add adapters to every linear layer, before or after this library sees the class."""
    build, name, called, op = CLASSES[which]
    module, x = build(), maps(build)
    cls = type(module.get_submodule(name))
    cf.accelerate(module)
    if early:
        monkeypatch.delitem(changes._forwards, cls, raising=False)
    before, seen = cls.forward, []
    monkeypatch.setattr(cls, "forward", lambda self, u: (seen.append(1), before(self, u))[1])
    module(x)
    assert seen
    assert reasons(module) == ([f"not {op}: {called} has a class whose forward was replaced"], all_ops(build) - {op})


@pytest.mark.parametrize("which", [name for name in CLASSES if name != "transformers'"])  # it calls super(): a closure
def test_code_put_into_a_forward_is_seen(which, monkeypatch):
    """As IPython's autoreload does: the function stays, its code is another."""
    build, name, called, op = CLASSES[which]
    module, x = build(), maps(build)
    cls = type(module.get_submodule(name))
    cf.accelerate(module)
    module(x)
    monkeypatch.setattr(cls.forward, "__code__", (lambda self, u: u * 0 + 1).__code__)
    assert reasons(module) == ([f"not {op}: {called} has a class whose forward was replaced"], all_ops(build) - {op})


def test_a_call_put_into_a_class_is_seen(monkeypatch):
    block, x = dense(), maps(dense)
    block(x)
    called = []
    monkeypatch.setattr(nn.Linear, "__call__", lambda self, u: (called.append(1), nn.Module.__call__(self, u))[1])
    block(x)
    assert len(called) == 2


@pytest.mark.parametrize("build", [timm, transformers, upstream])
def test_code_put_into_the_forward_of_an_accelerated_block_is_run(build, monkeypatch):
    module, x = build(), maps(build)
    cf.accelerate(module)
    module(x)
    cls = type(module).accelerated_class
    monkeypatch.setattr(cls.forward, "__code__", (lambda self, x: 2 * x).__code__)
    assert torch.equal(module(x), 2 * x)


@pytest.mark.parametrize("build", [timm, transformers, upstream])
def test_a_forward_put_into_the_class_of_an_accelerated_block_is_run(build, monkeypatch):
    module = build()
    cls = type(module)
    cf.accelerate(module)
    monkeypatch.setattr(cls, "forward", lambda self, x: 2 * x)
    x = maps(build)
    assert torch.equal(module(x), 2 * x)
    assert len(cf.accelerate(module).not_replaced) == 1


@pytest.mark.parametrize("build", [dense, sparse])
def test_torch_compile_may_be_the_first_to_see_a_class(build, monkeypatch):
    monkeypatch.setattr(changes, "_forwards", {})
    block, x = build(), maps(build)
    torch._dynamo.reset()
    y = torch.compile(block, fullgraph=True, backend="eager")(x)
    torch.testing.assert_close(rows(y), rows(block(x)))


class Doubling(nn.Parameter):
    """A parameter that acts whenever it is used, as quantised ones do that are no wrappers."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            return function(*[2 * a.data if isinstance(a, cls) else a for a in args], **(kwargs or {}))


def test_a_parameter_that_acts_is_seen():
    block, x = dense(), maps(dense)
    want = copy.deepcopy(block)
    block.pwconv1.weight = Doubling(block.pwconv1.weight.detach())
    assert reasons(block) == ([f"not {SECOND}: {FC1} has a parameter of class Doubling"], {FIRST})
    want.pwconv1.weight.data.mul_(2)
    torch.testing.assert_close(block(x), want(x))


@pytest.mark.parametrize("build", PARTS)
def test_a_parameter_that_is_a_wrapper_is_seen(build):
    module = build()
    for name, (op, called) in PARTS[build].items():
        part = module.get_submodule(name)
        for kind, p in list(part.named_parameters(recurse=False)):
            setattr(part, kind, nn.Parameter(TwoTensor(p.detach(), p.detach())))
            want = [f"not {op}: {called} has a parameter of class TwoTensor"]
            assert reasons(module)[0] == want, f"{name}.{kind}"
            setattr(part, kind, p)


@pytest.mark.parametrize("build, name", [(dense, "pwconv1"), (sparse, "pwconv1.linear"), (timm, "mlp.fc1")])
def test_a_parametrised_module_is_seen(build, name):
    module = build()
    parametrizations.weight_norm(module.get_submodule(name))
    assert reasons(module) == ([f"not {SECOND}: {FC1} is a ParametrizedLinear"], {FIRST})


def conv(**options):
    return nn.Conv2d(8, 8, **({"kernel_size": 7, "padding": 3, "groups": 8} | options))


@pytest.mark.parametrize(
    "name, other, reason",
    [
        ("dwconv", conv(kernel_size=5, padding=2), "the convolution is 5x5, the kernels are 7x7"),
        ("dwconv", conv(dilation=2, padding=6), "the convolution has dilation 2"),
        ("dwconv", conv(stride=2), "the convolution has a stride, or padding other than 3 zeros"),
        ("dwconv", conv(padding_mode="circular"), "the convolution has a stride, or padding other than 3 zeros"),
        ("dwconv", conv(groups=1), "the convolution is not depthwise"),
        ("norm", LayerNorm(8, data_format="channels_first"), "the norm is a LayerNorm of channels_first maps"),
        ("pwconv1", nn.Linear(8, 32, bias=False), "the first linear layer has no bias"),
        ("pwconv2", nn.Conv2d(32, 8, 1), "the second linear layer is a Conv2d"),
        ("act", nn.GELU("tanh"), "the activation is GELU(approximate='tanh'), the kernels have the erf GELU"),
    ],
)
def test_a_module_of_another_kind_is_seen(name, other, reason):
    block = dense()
    setattr(block, name, other)
    assert [left.split(": ", 1)[1] for left in reasons(block)[0]] == [reason]


def test_a_norm_without_parameters_is_seen():
    block, layer = sparse(), sparse_downsampling()
    block.norm.ln = layer[0].ln = nn.LayerNorm(8, elementwise_affine=False)
    for module, op in ((block, FIRST), (layer, PATCH)):
        assert reasons(module)[0] == [f"not {op}: LayerNorm has no weight or no bias"]
        assert rows(module(maps(sparse))).isfinite().all()


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda block: setattr(block.mlp, "fc1", nn.Conv2d(8, 32, 3)), f"{FC1} is a convolution other than 1x1"),
        (lambda block: setattr(block.mlp, "drop1", nn.Dropout(0.5)), "dropout of 0.5 in the MLP"),
        (lambda block: setattr(block.mlp, "drop1", nn.Dropout2d(0.5)), "dropout is a Dropout2d"),
    ],
)
def test_what_is_around_timms_linear_layers_is_seen(change, reason):
    block = timm()
    change(block)
    assert reasons(block) == ([f"not {SECOND}: {reason}"], {FIRST})
    block.shortcut.register_forward_hook(lambda *_: None)
    assert reasons(block) == (["the shortcut has hooks"], set())


@pytest.mark.parametrize(
    "change", [{"stride": 2}, {"padding": 1}, {"dilation": 2}, {"groups": 3}, {"kernel_size": (4, 2)}]
)
def test_a_stem_of_another_geometry_is_seen(change):
    module, x = stem(), maps(stem)
    module[0] = nn.Conv2d(3, 9 if "groups" in change else 8, **({"kernel_size": 4, "stride": 4} | change))
    module[1] = LayerNorm(module[0].out_channels, data_format="channels_first")
    want = "not patch_conv: the convolution's windows overlap, or it is padded, dilated or grouped"
    assert reasons(module) == ([want], set())
    torch.testing.assert_close(module(x), module[1](module[0](x)))


@pytest.mark.parametrize("build", [stem, sparse_downsampling])
def test_a_pair_with_a_third_module_is_seen(build):
    module = build().append(Other())
    assert reasons(module) == (["it has 3 modules"], set())
    assert rows(module(maps(build))).isfinite().all()


@pytest.mark.parametrize("build", PARTS)
def test_hooks_on_all_modules_fire(build, monkeypatch):
    module, x = build(), maps(build)
    cf.accelerate(module)
    with hooks_on_all_modules(), counted(monkeypatch) as calls:
        why = fusion.why_not_any()
        module(x)
        notes = cf.accelerate(module).notes
    assert why == "there are hooks on all modules" and any(why in note for note in notes)
    assert not calls or build is sparse_downsampling  # whose convolution is this library's own module
    assert fusion.why_not_any() is None and not cf.accelerate(module).not_replaced


class Adapter(nn.Linear):
    """A linear layer with a low-rank adapter."""

    def __init__(self, of):
        super().__init__(of.in_features, of.out_features)
        self.load_state_dict(of.state_dict())
        self.a, self.b = nn.Parameter(torch.randn(2, of.in_features)), nn.Parameter(torch.randn(of.out_features, 2))

    def forward(self, x):
        return super().forward(x) + x @ self.a.T @ self.b.T


HALVES = {
    "adapter": (SECOND, lambda block: _swap(block, "pwconv1")),
    "convolution": (FIRST, lambda block: block.dwconv.register_forward_hook(lambda m, a, y: _twice(y))),
    "both": (None, lambda block: (_swap(block, "pwconv2"), setattr(block.norm, "forward", block.norm.forward))),
}


def _swap(block, name):
    layer = getattr(block, name)
    if isinstance(layer, nn.Linear):
        setattr(block, name, Adapter(layer))
    else:
        layer.linear = Adapter(layer.linear)


def _twice(y):
    return y.replace(2 * y.F) if isinstance(y, SparseTensor) else 2 * y


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("change", HALVES)
@pytest.mark.parametrize("build", [dense, sparse])
def test_own_blocks_fall_back_by_halves(build, change, training, monkeypatch):
    """Values, gradients and drop path's draws are those of the modules."""
    block, x = build().train(training), maps(build)
    unfused, alter = HALVES[change]
    alter(block)
    results = []
    for fused in (True, False):
        other = copy.deepcopy(block)
        torch.manual_seed(1)
        if fused:
            with counted(monkeypatch) as calls:
                y = rows(other(x))
            assert calls == ([] if change == "both" else [op for op in (FIRST, SECOND) if op != unfused])
        else:
            with hooks_on_all_modules():
                y = rows(other(x))
        y.square().sum().backward()
        results.append({"output": y} | {name: p.grad for name, p in other.named_parameters()})
    for name, got in results[0].items():
        close(got, results[1][name], 2e-5, name)


def test_the_report_describes_own_blocks():
    model = cf.ConvNeXtV2(depths=[1, 1, 1, 1], dims=[8, 8, 8, 8])
    model.stages[1][0].pwconv1 = Adapter(model.stages[1][0].pwconv1)
    model.downsample_layers[2][1].register_forward_hook(lambda *_: None)
    assert {(r.name, r.cls, r.reason) for r in cf.accelerate(model).not_replaced} == {
        ("stages.1.0", "Block", "not mlp_grn: the first linear layer is a Adapter"),
        ("downsample_layers.2", "PatchConv", "not patch_conv: the convolution has hooks"),
    }


@pytest.mark.parametrize("name", ["act", "drop_path"])
def test_a_function_in_the_place_of_a_module_is_called(name):
    block = Block(8).eval()
    delattr(block, name)
    setattr(block, name, {"act": nn.functional.gelu, "drop_path": lambda x: x}[name])
    x = torch.randn(2, 8, 7, 7)
    y = block.pwconv2(block.grn(nn.functional.gelu(block.pwconv1(block.norm(block.dwconv(x).permute(0, 2, 3, 1))))))
    torch.testing.assert_close(block(x), x + y.permute(0, 3, 1, 2), rtol=1e-5, atol=1e-5)


def test_a_missing_grn_is_an_error_where_blocks_have_one():
    block = Block(8)
    block.grn = None
    with pytest.raises(TypeError):
        block(torch.randn(1, 8, 7, 7))


def test_a_stem_of_an_older_pickle_is_fused():
    encoder = SparseConvNeXtV2(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8)).eval()
    x = torch.randn(1, 3, 64, 64)
    want = encoder(x)
    encoder.downsample_layers[0] = nn.Sequential(*encoder.downsample_layers[0])
    torch.testing.assert_close(encoder(x), want)
