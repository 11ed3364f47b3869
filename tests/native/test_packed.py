"""Packed buffers of the CPU operators: what their header tells, and that no operator writes into one it is given."""

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast import library
from convnextv2_fast.ops._shared import packed as copies
from tests.native.isas import needs_library, on_isa

pytestmark = [pytest.mark.cpu_kernel, needs_library]
CALLS = torch.ops.convnextv2_fast
OP, ISA, DTYPE = 1, 2, 3  # the words of a header; the first is its mark
C, K = 8, 20


def mlp_grn():
    w1, b1, gamma, beta = torch.randn(K, C), torch.randn(K), torch.randn(K), torch.randn(K)
    w2, b2, u = torch.randn(C, K), torch.randn(C), torch.randn(12, C)

    def forward(packed):
        rest = (None, None, 1e-6, 1 << 20, 4, 3, None, None)
        y, *_, repacked = CALLS.mlp_grn_cpu_fwd.default(u, w1, b1, gamma, beta, w2, b2, *rest, packed, False)
        return y, repacked

    return lambda: CALLS.mlp_grn_cpu_pack.default(w1, b1, beta, w2, b2), forward, w1


def patch_conv():
    x, weight, bias = torch.randn(1, 4, 4, C), torch.randn(K, C, 2, 2), torch.randn(K)

    def forward(packed):
        return CALLS.patch_conv_cpu_fwd.default(x, weight, bias, None, None, None, None, 1e-6, None, 4, 4, 4, 2, packed)

    return lambda: CALLS.patch_conv_cpu_pack.default(weight, bias), forward, weight


def block():
    kernel, w1, w2 = torch.randn(C, 1, 7, 7), torch.randn(K, C), torch.randn(C, K)
    bias, ln_weight, ln_bias, b2, scale = torch.randn(5, C)
    b1, gamma, beta = torch.randn(3, K)
    weights = (kernel, bias, ln_weight, ln_bias, w1, b1, gamma, beta, w2, b2, scale)
    x = torch.randn(2, 5, 6, C)
    return (
        lambda: CALLS.block_cpu_pack.default(*weights),
        lambda packed: CALLS.block_cpu_fwd.default(x, packed, *weights, 1e-6, 1e-6),
        w2,
    )


PACKED = {"mlp_grn": mlp_grn, "patch_conv": patch_conv, "block": block}
each_op = pytest.mark.parametrize("name", PACKED)


@each_op
def test_a_stale_copy_is_left_as_it_is_and_a_new_one_returned(isa, name):
    pack, forward, weight = PACKED[name]()
    packed = pack()
    y, repacked = forward(packed)
    assert repacked.shape == (0,)
    before = packed.clone()
    weight.mul_(1.5)
    changed, repacked = forward(packed)
    assert torch.equal(packed.view(torch.int32), before.view(torch.int32))
    assert torch.equal(repacked.view(torch.int32), pack().view(torch.int32))
    assert not torch.equal(changed, y)
    again, nothing = forward(repacked)
    assert torch.equal(again, changed) and nothing.shape == (0,)


@each_op
@pytest.mark.parametrize(("word", "wanted"), [(0, ""), (OP, "weights for"), (ISA, " on "), (DTYPE, "weights for")])
def test_the_header_tells_what_a_buffer_is(isa, name, word, wanted):
    """A buffer of another op, instruction set or dtype is refused, and so is one without a header."""
    pack, forward, _ = PACKED[name]()
    packed = pack()
    words = packed.view(torch.int32)
    words[word] = (words[word] + 1) % 3 if word else 0
    with pytest.raises(ValueError, match="packed must come from this operator's pack") as caught:
        forward(packed)
    assert ("which no operator has made" in str(caught.value)) is (word == 0)
    assert wanted in str(caught.value)


@pytest.mark.skipif(library.cpu_isa() == "scalar", reason="only one instruction set here")
@each_op
def test_weights_of_another_instruction_set_are_refused(name):
    pack, forward, _ = PACKED[name]()
    with on_isa("scalar"):
        packed = pack()
    with pytest.raises(ValueError, match=rf"{name}'s weights for float32 on scalar, .* on {library.cpu_isa()}, "):
        forward(packed)


def test_weights_of_another_op_are_refused():
    for name in PACKED:
        for other in PACKED:
            if other != name:
                with pytest.raises(ValueError, match=rf"made of {other}'s weights .* where {name}'s weights"):
                    PACKED[name]()[1](PACKED[other]()[0]())


def test_a_new_copy_takes_the_place_of_the_stale_one():
    packed, weight = copies, torch.randn(3)
    packed.clear()
    fresh, made, given = torch.ones(3), torch.zeros(5), []

    def forward(repacked):
        return lambda copy: (given.append(copy), repacked)

    for repacked, wanted in [(torch.empty(0), made), (torch.empty(0), made), (fresh, made), (torch.empty(0), fresh)]:
        packed.run(forward(repacked), lambda: made, weight, "op")
        assert given[-1] is wanted
    assert packed.count() == 1 and packed.held_bytes() == 4 * fresh.numel()
    packed.run(forward(fresh), lambda: made, weight, "another op")
    assert given[-1] is made and packed.count() == 2
    del weight
    assert packed.count() == 0


def test_a_buffer_that_is_cut_off_is_refused():
    pack, forward, _ = PACKED["mlp_grn"]()
    for other in (pack()[:-1], torch.cat((pack(), torch.zeros(1)))):
        with pytest.raises(ValueError, match="which is of another length"):
            forward(other)


def test_a_freed_weight_is_an_error():
    """Sharding frees the storage of parameters that are not in use; reading it would end the process."""
    model = cf.ConvNeXtV2(depths=[1, 1, 1, 1], dims=[8, 8, 8, 8], num_classes=2).eval()
    x = torch.randn(1, 3, 32, 32)
    for name in ("pwconv1", "dwconv", "norm"):
        weight = model.stages[0][0].get_submodule(name).weight
        size, values = weight.untyped_storage().nbytes(), weight.detach().clone()
        for _ in range(2):  # before anything was packed, and after
            weight.untyped_storage().resize_(0)
            with torch.no_grad(), pytest.raises((ValueError, RuntimeError), match=r"no memory|storage"):
                model(x)
            weight.untyped_storage().resize_(size)
            with torch.no_grad():
                weight.copy_(values)
                model(x)
