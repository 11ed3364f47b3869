"""What a packed copy is compared by: a digest of every byte of the tensors it was made of."""

import copy

import pytest
import torch
from torch import nn

from convnextv2_fast import ops
from convnextv2_fast.layouts import DenseLayout
from convnextv2_fast.models.convnextv2 import Block
from convnextv2_fast.ops._shared import packed
from convnextv2_fast.testing import randomise
from tests.native.isas import ISAS, needs_library, on_isa

pytestmark = [pytest.mark.cpu_kernel, needs_library]
CALLS = torch.ops.convnextv2_fast
HEADER = 16  # words
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


def patch_conv(weight, bias):
    """Packs; returns the packed weights and a function: are they fresh?"""
    c = weight.shape[1]
    x = torch.zeros(1, 2, 2, c)

    def fresh():
        rest = (None, None, None, None, 1e-6, None, 1, 2, 2, 2)
        return CALLS.patch_conv_cpu_fwd.default(x, weight, bias, *rest, copy)[1].numel() == 0

    copy = CALLS.patch_conv_cpu_pack.default(weight, bias)
    return copy, fresh


def seal(copy):
    """Forms and digests."""
    return copy.view(torch.int32)[HEADER : int(copy.view(torch.int64)[3])]


def test_any_bit(isa):
    """Each bit of a vector of less than a piece; one bit at every place of three pieces and a bit."""
    weight, bias = torch.randn(1, 811, 2, 2), torch.randn(1)
    _, fresh = patch_conv(weight, bias)
    for words in (weight.view(-1).view(torch.int32), bias.view(torch.int32)):
        for i in [*range(0, words.numel(), 37), words.numel() - 1]:
            for bit in range(32) if i % 5 == 0 else (i % 32,):
                old = words[i].item()
                words[i] ^= -(2**31) if bit == 31 else 1 << bit
                assert not fresh(), (i, bit)
                words[i] = old
    assert fresh()


# Changes that sums or comparisons of values would miss, of a weight [300, 6, 2, 2] and a bias [300]. `w`, `b`: flat.


def exchange(i, j):
    def change(w, b):
        w[[i, j]] = w[[j, i]]

    return change


def two_signs(w, b):
    w[[3, 700]] = -w[[3, 700]]


def rows(w, b):
    w.view(300, -1)[[0, 1]] = w.view(300, -1)[[1, 0]]


def pieces(w, b):
    both = w[:2048].view(2, 1024)
    both.copy_(both.flip(0))


def one_up_one_down(w, b):
    words = w.view(torch.int32)
    words[0] += 1
    words[32] -= 1


def contents(w, b):
    old = w[:300].clone()
    w[:300] = b
    b.copy_(old)


BLIND = {
    "two signs": two_signs,
    "neighbours exchanged": exchange(10, 11),
    "exchanged within a lane": exchange(8, 16),
    "exchanged between pieces": exchange(5, 1024 + 5),
    "rows exchanged": rows,
    "pieces exchanged": pieces,
    "reversed": lambda w, b: w.copy_(w.flip(0)),
    "one up, one down": one_up_one_down,
    "minus zero": lambda w, b: b[7].neg_(),
    "another NaN": lambda w, b: b.view(torch.int32)[8].add_(1),
    "tensors exchange their content": contents,
}


@pytest.mark.parametrize("change", BLIND)
def test_changes_that_sums_would_miss(isa, change):
    weight, bias = torch.randn(300, 6, 2, 2), torch.randn(300)
    bias[7], bias[8] = 0.0, float("nan")
    before = weight.clone().view(torch.int32), bias.clone().view(torch.int32)
    _, fresh = patch_conv(weight, bias)
    BLIND[change](weight.view(-1), bias)
    assert any(not torch.equal(a, b.view(torch.int32)) for a, b in zip(before, (weight, bias), strict=True))
    assert not fresh()
    weight.view(torch.int32).copy_(before[0])
    bias.view(torch.int32).copy_(before[1])
    assert fresh()


@pytest.mark.parametrize("form", ["dtype", "shape", "strides", "absent"])
def test_the_same_bytes_in_another_form(form):
    """The digests are the same; the forms differ. On an instruction set whose packed weights serve every dtype."""
    with on_isa([name for name in ISAS if name not in ("avx512_bf16", "amx")][-1]):
        repacks_in_another_form(form)


def repacks_in_another_form(form):
    weight, bias = torch.randn(8, 8, 2, 2).to(BF16), torch.randn(8).to(BF16)
    x, args = torch.zeros(1, 2, 2, 8, dtype=BF16), (None, None, None, None, 1e-6, None, 1, 2, 2, 2)
    copy = CALLS.patch_conv_cpu_pack.default(weight, bias)
    if form == "dtype":
        x, weight, bias = x.to(F16), weight.view(F16), bias.view(F16)
    elif form == "strides":
        weight = weight.as_strided(weight.shape, (4, 32, 2, 1))
    elif form == "absent":
        bias = None
    else:  # Minkowski's [k * k, Cin, Cout]
        weight = weight.view(4, 8, 8)
    z, repacked = CALLS.patch_conv_cpu_fwd.default(x, weight, bias, *args, copy)
    assert repacked.numel() > 0
    want = CALLS.patch_conv_cpu_fwd.default(x, weight, bias, *args, None)[0]
    assert torch.equal(z, want)


def test_digests_are_the_same_for_every_instruction_set_and_number_of_threads():
    weight, bias, threads = torch.randn(64, 160, 2, 2), torch.randn(64), torch.get_num_threads()
    seals = []
    try:
        for isa in ISAS:
            for n in (1, 2):
                torch.set_num_threads(n)
                with on_isa(isa):
                    seals.append(seal(patch_conv(weight, bias)[0]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(s, seals[0]) for s in seals)
    for other in (weight.to(memory_format=torch.channels_last), weight.flip(0)):
        assert not torch.equal(seal(patch_conv(other, bias)[0]), seals[0])


# Parameters that are not contiguous ---------------------------------------------------------------------------------


def strided(t):
    """The same values, with gaps between them."""
    return torch.stack((t, torch.full_like(t, float("nan"))), -1)[..., 0]


def turned(t):
    return t.transpose(0, -1).contiguous().transpose(0, -1)


def expanded(t):
    return t.view(-1)[:1].expand(t.numel()).view(t.shape)


VECTORS = ("dwconv.bias", "norm.weight", "norm.bias", "pwconv1.bias", "grn.gamma", "grn.beta", "pwconv2.bias")
FORMS = [
    *((name, form) for name in ("dwconv.weight", "pwconv1.weight", "pwconv2.weight") for form in (strided, turned)),
    *((name, form) for name in VECTORS for form in (strided, expanded)),
]


@pytest.mark.parametrize(("name", "form"), FORMS, ids=lambda v: getattr(v, "__name__", v))
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_parameters_of_any_strides(mode, name, form):
    """Inference computes what training does, and what it does with the same values in order; changes are seen."""
    block, x = randomise(Block(24), 0).eval(), torch.randn(2, 24, 7, 7)
    module, leaf = block.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
    setattr(module, leaf, nn.Parameter(form(getattr(module, leaf).detach())))
    p = getattr(module, leaf)
    assert not p.is_contiguous()

    def plain():
        other = copy.deepcopy(block)
        for q in other.parameters():
            q.data = q.data.contiguous()
        with mode():
            return other(x)

    for _ in range(2):
        training = block(x).detach()
        with mode():
            got, again = block(x), block(x)
        assert torch.equal(got, again) and torch.equal(got, plain())
        torch.testing.assert_close(got, training, rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            p.data[(0,) * p.ndim].add_(0.5)


@pytest.mark.parametrize("minkowski", [False, True])
@pytest.mark.parametrize("form", [strided, turned])
def test_patch_conv_of_any_strides(minkowski, form):
    x = torch.randn(1, 8, 8, 6)
    weight = form(torch.randn(4, 6, 10) if minkowski else torch.randn(10, 6, 2, 2))
    assert not weight.is_contiguous()
    layout = DenseLayout(1, 4, 4) if minkowski else None
    for _ in range(2):
        with torch.no_grad():
            y = ops.patch_conv(x, weight, None, layout=layout, backend="cpu")
        want = ops.patch_conv(x, weight, None, layout=layout, backend="torch")
        torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-5)
        weight[0, 0, 0] += 1.0


def test_the_copies_of_weights_in_one_memory_are_bounded():
    """Weights at ever new places of one storage."""
    packed.clear()
    storage, x = torch.randn(1 << 16), torch.randn(1, 4, 4, 16)
    for i in range(400):
        weight = storage[i : i + 16 * 16 * 4].view(16, 16, 2, 2)
        with torch.no_grad():
            y = ops.patch_conv(x, weight, None, backend="cpu")
    torch.testing.assert_close(y, ops.patch_conv(x, weight, None, backend="torch"), rtol=1e-4, atol=1e-4)
    assert 0 < packed.held_bytes() <= 8 * 4 * storage.numel() + (1 << 20)
    del storage, weight
    assert packed.held_bytes() == 0


def test_under_vmap_nothing_is_held():
    """An ensemble's weights have no memory of their own."""
    packed.clear()
    weights, x = torch.randn(3, 8, 6, 2, 2), torch.randn(1, 4, 4, 6)
    with torch.no_grad():
        got = torch.vmap(lambda w: ops.patch_conv(x, w, None))(weights)
        want = torch.stack([ops.patch_conv(x, w, None, backend="torch") for w in weights])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert packed.held_bytes() == 0
