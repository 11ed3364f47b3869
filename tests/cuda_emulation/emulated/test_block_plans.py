"""A block that has been called keeps what inspection found. What a later call computes is what a fresh block of the
same modules computes, whatever was changed in between."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.checkpoint import checkpoint

import convnextv2_fast as cf
from convnextv2_fast import block_plans, dispatch
from convnextv2_fast.layouts import PatchLayout, SparseTensor
from convnextv2_fast.models import convnextv2, convnextv2_sparse
from convnextv2_fast.testing import randomise

BF16 = torch.bfloat16


@pytest.fixture(autouse=True)
def on_cuda():
    with cf.use_backend("cuda"):
        yield


def dense(dtype=torch.float32, drop_path=0.0, channels=8):
    block = randomise(convnextv2.Block(channels, drop_path), 0).to(dtype)
    x = torch.randn(2, channels, 5, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
    return block, x.to(memory_format=torch.channels_last)


def sparse(scope="sample"):
    block = randomise(convnextv2_sparse.Block(8, grn_scope=scope), 0)
    layout = PatchLayout.from_mask(torch.tensor([[0, 1, 0, 1], [1, 0, 0, 1]]).view(2, 2, 2).float(), 4)
    return block, SparseTensor(torch.randn(layout.rows, 8, generator=torch.Generator().manual_seed(1)), layout)


def has_plan(block):
    return block in block_plans._plans


def everything(block, x):
    """The result, and the gradients of input and parameters."""
    rows = (x.F if isinstance(x, SparseTensor) else x).detach().clone().requires_grad_()
    for p in block.parameters():
        p.grad = None
    torch.manual_seed(0)
    y = block(x.replace(rows) if isinstance(x, SparseTensor) else rows)
    y = y.F if isinstance(y, SparseTensor) else y
    y.backward(torch.ones_like(y))
    return [y.detach(), rows.grad, *[p.grad for p in block.parameters()]]


def assert_equal(got, want):
    assert all(torch.equal(a, b) if a is not None else b is None for a, b in zip(got, want, strict=True))


MAKE = (dense, lambda: dense(BF16), lambda: dense(drop_path=0.5), sparse, lambda: sparse("batch"))


@pytest.mark.parametrize("make", MAKE)
def test_a_block_with_a_plan_gives_the_same_bits(make):
    block, x = make()
    want = everything(block, x)
    assert has_plan(block)
    assert_equal(everything(block, x), want)
    with torch.no_grad():
        torch.manual_seed(0)
        y = block(x)
    assert torch.equal(y.F if isinstance(y, SparseTensor) else y, want[0])


def test_under_autocast():
    block, x = dense()
    with torch.autocast("cpu", BF16):
        want = everything(block, x.to(BF16))
        assert has_plan(block)
        assert_equal(everything(block, x.to(BF16)), want)
    assert want[2].dtype == torch.float32
    assert_equal(everything(block, x), everything(copy.deepcopy(block), x))


def hook(block):
    block.pwconv1.register_forward_hook(lambda module, args, y: y * 2)


def pre_hook(block):
    block.norm.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


def backward_hook(block):
    block.grn.register_full_backward_hook(lambda module, dx, dy: (dx[0] * 2,))


def replaced_hooks(block):
    block.act._forward_hooks = type(block.act._forward_hooks)()
    block.act.register_forward_hook(lambda module, args, y: y * 2)


def forward_of_an_instance(block):
    block.act.forward = lambda x: x * 2


def parameter(block):
    block.pwconv2.weight = nn.Parameter(block.pwconv2.weight.detach() * 2)


def parameter_of_the_same_value(block):
    block.norm.bias = nn.Parameter(block.norm.bias.detach().clone())


def written_in_place(block):
    with torch.no_grad():
        block.pwconv2.weight.mul_(2)


def other_memory(block):
    block.grn.gamma.data = block.grn.gamma.data * 2


def frozen_parameter(block):
    block.pwconv1.weight.requires_grad_(False)


def module(block):
    block.act = nn.ReLU()


def derived_module(block):
    class Halved(nn.GELU):
        def forward(self, x):
            return super().forward(x) / 2

    block.act = Halved()


def class_of_a_module(block):
    class Halved(nn.GELU):
        def forward(self, x):
            return super().forward(x) / 2

    block.act.__class__ = Halved


def replaced_attributes(block):
    block.norm.__dict__ = dict(block.norm.__dict__)
    block.norm.eps = 0.5


class OtherParts(convnextv2.Block):
    def parts(self):
        return super().parts()._replace(act=nn.ReLU())


def class_of_the_block(block):
    block.__class__ = OtherParts


def eps(block):
    block.norm.eps = 0.1


def eps_of_grn(block):
    block.grn.eps = 0.5


def approximate(block):
    block.act.approximate = "tanh"


def dilation(block):
    block.dwconv.dilation, block.dwconv.padding = (2, 2), (6, 6)


def dropped(block):
    block.drop_path = convnextv2.DropPath(0.5)


def narrow(block):
    block.bfloat16()


CHANGES = (
    *(hook, pre_hook, backward_hook, replaced_hooks, forward_of_an_instance, parameter, parameter_of_the_same_value),
    *(written_in_place, other_memory, frozen_parameter, module, derived_module),
    *(class_of_a_module, replaced_attributes, class_of_the_block, eps, eps_of_grn, approximate, dilation),
    *(dropped, narrow),
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changes_are_seen(change):
    block, x = dense()
    fresh = copy.deepcopy(block)
    everything(block, x)
    assert has_plan(block) and not has_plan(fresh)
    change(block)
    change(fresh)
    x = x.to(block.dwconv.weight.dtype)
    want = everything(fresh, x)
    assert_equal(everything(block, x), want)
    assert_equal(everything(block, x), want)  # with another plan, if it has one


def test_the_forward_of_a_class(monkeypatch):
    block, x = dense()
    everything(block, x)
    monkeypatch.setattr(nn.GELU, "forward", lambda self, x: x)
    assert_equal(everything(block, x), everything(copy.deepcopy(block), x))


def test_the_code_of_a_forward():
    block, x = dense()
    everything(block, x)
    code = nn.GELU.forward.__code__
    try:
        nn.GELU.forward.__code__ = (lambda self, input: input * 3).__code__
        got, want = everything(block, x), everything(copy.deepcopy(block), x)
    finally:
        nn.GELU.forward.__code__ = code
    assert_equal(got, want)
    assert not torch.equal(got[0], everything(block, x)[0])


def test_hooks_on_all_modules():
    block, x = dense()
    want = everything(block, x)
    seen = []
    handle = register_module_forward_hook(lambda module, args, y: seen.append(type(module)))
    try:
        everything(block, x)
    finally:
        handle.remove()
    assert nn.GELU in seen
    assert_equal(everything(block, x), want)


def test_other_backends(monkeypatch):
    """What context and environment ask for is obeyed, in the thread that asks."""
    block, x = dense()
    everything(block, x)
    chosen, choose = [], dispatch._choose
    monkeypatch.setattr(dispatch, "_choose", lambda *args: chosen.append(args[0].op) or choose(*args))
    everything(block, x)
    assert not chosen
    for op in (None, "mlp_grn"):
        with cf.use_backend("torch", op=op):
            everything(block, x)
        assert chosen and not chosen.clear()
    results = []
    thread = threading.Thread(target=lambda: results.append(everything(block, x)))  # begins without use_backend
    thread.start()
    thread.join()
    assert chosen


def test_an_implementation_that_was_registered_later(monkeypatch):
    block, x = dense()
    want = everything(block, x)[0]
    reference = dispatch.implementations("mlp_grn")[-1]
    mine = dispatch.Implementation("cuda", lambda call: reference.run(call) + 1, lambda spec: [])
    monkeypatch.setitem(dispatch._registry, "mlp_grn", (mine, reference))
    torch.testing.assert_close(everything(block, x)[0], want + 1, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda b: pickle.loads(pickle.dumps(b))])
def test_copies_have_no_plan(copied):
    block, x = dense()
    everything(block, x)
    other = copied(block)
    assert not has_plan(other)
    if copied is not copy.copy:  # which shares everything
        with torch.no_grad():
            other.norm.weight.mul_(3)
        assert not torch.equal(everything(other, x)[0], everything(block, x)[0])
    assert_equal(everything(other, x), everything(copy.deepcopy(other), x))


def test_a_replica_of_data_parallel():
    """It shares the modules' classes and has other parameters, which are no leaves."""
    block, x = dense()
    everything(block, x)
    replica = block._replicate_for_data_parallel()
    assert not has_plan(replica)


def test_blocks_are_not_kept_alive():
    block, x = dense()
    everything(block, x)
    number = len(block_plans._plans)
    del block
    assert len(block_plans._plans) == number - 1


WRONG = (torch.randn(2, 9, 5, 4), torch.randn(2, 8, 5), torch.randn(2, 8, 5, 4).to(BF16), torch.ones(2, 8, 5, 4).int())


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_inputs_get_the_same_error(wrong):
    block, x = dense()
    fresh = copy.deepcopy(block)
    everything(block, x)
    with pytest.raises((ValueError, RuntimeError)) as first:
        fresh(wrong)
    with pytest.raises((ValueError, RuntimeError)) as second:
        block(wrong)
    assert str(first.value) == str(second.value)


@pytest.mark.parametrize("shape", [(2, 8, 5, 4), (1, 8, 1, 1), (0, 8, 3, 3), (3, 8, 1, 7), (2, 8, 16, 16)])
def test_shapes_and_strides(shape):
    """Other sizes, and planes in other strides than channels_last, with a plan."""
    block, x = dense()
    everything(block, x)
    other = torch.randn(shape)
    views = (other, other.to(memory_format=torch.channels_last), torch.randn(shape[::-1]).permute(3, 2, 1, 0))
    for view in views:
        assert_equal(everything(block, view), everything(copy.deepcopy(block), view))
    assert has_plan(block)


def test_twice_differentiable():
    block, x = dense()
    everything(block, x)
    rows = x.double().float().requires_grad_()
    (dx,) = torch.autograd.grad(block(rows).square().sum(), rows, create_graph=True)
    got = torch.autograd.grad(dx.square().sum(), [rows, *block.parameters()], allow_unused=True)
    with cf.use_backend("torch"):
        (dx,) = torch.autograd.grad(block(rows).square().sum(), rows, create_graph=True)
        want = torch.autograd.grad(dx.square().sum(), [rows, *block.parameters()], allow_unused=True)
    for a, b in zip(got, want, strict=True):
        if b is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


@pytest.mark.parametrize("make", [dense, sparse])
def test_activation_checkpointing(make):
    """The first call has no plan, its recomputation has one; PyTorch compares what both save."""
    block, x = make()
    rows = x.F if isinstance(x, SparseTensor) else x

    def run(rows):
        y = block(x.replace(rows) if isinstance(x, SparseTensor) else rows)
        return y.F if isinstance(y, SparseTensor) else y

    given = rows.clone().requires_grad_()
    checkpoint(run, given, use_reentrant=False).sum().backward()
    assert has_plan(block)
    got, given.grad = given.grad, None
    run(given).sum().backward()
    assert torch.equal(got, given.grad)


def held_as_a_buffer(block):
    weight = block.norm.weight.detach().clone()
    del block.norm.weight
    block.norm.register_buffer("weight", weight)


@pytest.mark.parametrize("how", ["assigned", "converted", "functional_call"])
def test_a_weight_that_is_a_buffer(how):
    block, x = dense()
    held_as_a_buffer(block)
    with torch.no_grad():
        before = block(x)
        assert has_plan(block)
        if how == "functional_call":
            fresh, other = copy.deepcopy(block), {"norm.weight": block.norm.weight * 3}
            got, want = (torch.func.functional_call(b, other, (x,)) for b in (block, fresh))
        else:
            if how == "assigned":
                block.norm.weight = block.norm.weight * 3
            else:
                block.bfloat16().float()
            got, want = block(x), copy.deepcopy(block)(x)
    assert torch.equal(got, want) and not torch.equal(got, before)


def test_a_part_that_is_not_registered():
    block, x = dense()
    grn = block.grn
    del block.grn
    block.__dict__["grn"] = grn
    everything(block, x)
    grn.eps, grn.gamma = 0.5, nn.Parameter(grn.gamma.detach() * 3)
    assert_equal([block(x)], [copy.deepcopy(block)(x)])


def test_one_number_in_the_place_of_an_equal_one():
    pair = convnextv2.PatchConv(nn.Conv2d(3, 1, 2, 2), convnextv2.LayerNorm(1, data_format="channels_first"))
    x = torch.randn(2, 3, 6, 4)
    pair(x)
    old = pair[1].bias
    pair[1].bias = nn.Parameter(old.detach().clone())
    pair(x).sum().backward()
    assert old.grad is None and pair[1].bias.grad.item() == 12.0


def transpose(block):
    linear = next(m for m in block.modules() if isinstance(m, nn.Linear))
    linear.weight.data = linear.weight.data.t().contiguous().t()


REFUSED = {
    "norms in float32": lambda b: [m.float() for m in b.modules() if type(m).__name__ == "LayerNorm"],
    "other strides": transpose,
}


@pytest.mark.parametrize("change", REFUSED)
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_weights_that_the_operator_refuses_cost_no_random_numbers(kind, change):
    """Drop path is drawn once, as by a block that has no plan."""
    block, x = dense(BF16, 0.5) if kind == "dense" else sparse()
    if kind == "sparse":
        block = randomise(convnextv2_sparse.Block(8, 0.5), 0).to(BF16)
        x = x.replace(x.F.to(BF16))
    block(x)
    assert has_plan(block)
    REFUSED[change](block)
    fresh, found = copy.deepcopy(block), []
    for b in (fresh, block):
        torch.manual_seed(0)
        y = b(x)
        found.append((y.F if kind == "sparse" else y, torch.get_rng_state()))
    assert_equal(*found)
