"""The block's operators: what is wanted of them, what they refuse, and what a compiled graph of a block keeps."""

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd

import convnextv2_fast as cf
from convnextv2_fast.models import convnextv2
from convnextv2_fast.ops._block import operators
from convnextv2_fast.ops._block.operators import copies_bytes
from convnextv2_fast.testing import randomise

BF16, F32 = torch.bfloat16, torch.float32
NAMES = ("x", "kernel", "bias", "ln_weight", "ln_bias", "w1", "b1", "gamma", "beta", "w2", "b2")


def arguments(dtype=BF16, param_dtype=BF16, planes=False, c=8, k=32):
    def rand(*shape, dtype=param_dtype):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)

    x = rand(2, 4, 3, c, dtype=dtype)
    mlp = rand(k, c), rand(k), rand(1, 1, 1, k), rand(1, 1, 1, k), rand(c, k), rand(c)
    parameters = (rand(c, 1, 7, 7), rand(c), rand(c) + 2, rand(c), *mlp)
    places = (1e-6, 1e-6, True, True) if planes else (1e-6, 1e-6, True, False, 4, 3, None, 12, 2, None, None)
    return x.permute(0, 3, 1, 2) if planes else x, parameters, places


def backward_arguments(x, parameters, places, wanted):
    out, z, u, norm, weights = operators.forward_train(x, *parameters, None, None, *places)
    kernel, _, ln_weight, _, w1, b1, gamma, beta, w2, _ = parameters
    dout = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out.dtype)
    dout = dout.contiguous(memory_format=torch.channels_last) if places[3] else dout
    saved = (z, u, norm, weights, kernel, ln_weight, w1, b1, gamma, beta, w2, None)
    return dout, x, *saved, True, wanted, *places


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize(("dtype", "param_dtype"), [(BF16, BF16), (BF16, F32), (F32, F32)])
def test_opcheck(dtype, param_dtype, planes):
    x, parameters, places = arguments(dtype, param_dtype, planes)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(operators.forward, (x, *parameters, None, None, *places), test_utils=tests)
    torch.library.opcheck(operators.forward_train, (x, *parameters, None, None, *places), test_utils=tests)
    code = sum((2 if param_dtype == BF16 else 1) << 2 * i for i in range(11))
    torch.library.opcheck(operators.backward, backward_arguments(x, parameters, places, code), test_utils=tests)


@pytest.mark.parametrize("planes", [False, True])
def test_only_what_is_wanted(planes):
    """Each gradient alone has the bits that it has among all, in the dtype that is asked for."""
    x, parameters, places = arguments(planes=planes)
    for code in (1, 2):
        all_of_them = sum(code << 2 * i for i in range(11))
        everything = operators.backward(*backward_arguments(x, parameters, places, all_of_them))
        for i, name in enumerate(NAMES):
            alone = operators.backward(*backward_arguments(x, parameters, places, code << 2 * i))
            assert [g.numel() > 0 for g in alone] == [i == j for j in range(11)], name
            assert torch.equal(alone[i], everything[i]), name
            assert alone[i].dtype == (BF16 if code == 2 or i == 0 else F32)


def test_without_anything_wanted():
    x, parameters, places = arguments()
    assert not any(g.numel() for g in operators.backward(*backward_arguments(x, parameters, places, 0)))


@pytest.mark.parametrize("param_dtype", [BF16, F32])
def test_what_is_saved(param_dtype):
    """x, two of its size, the norms, and copies of the weights that the kernels take in another form: no more."""
    x, parameters, places = arguments(param_dtype=param_dtype)
    kernel, w1, w2 = parameters[0], parameters[4], parameters[8]
    _, z, u, norm, weights = operators.forward_train(x, *parameters, None, None, *places)
    assert z.shape == u.shape == (24, 8) and z.dtype == u.dtype == BF16 and norm.shape == (2, 32)
    assert weights.numel() == copies_bytes(x, kernel, w1, w2) <= 4 * 49 * 8 + 2 * 2 * 256 + 3 * 256


@pytest.mark.parametrize(
    ("i", "wrong"),
    [
        (0, lambda t: t[:, :, :5]),
        (1, lambda t: t[:-1]),
        (2, lambda t: t.double()),
        (4, lambda t: t.t().contiguous()),
        (5, lambda t: t.half()),
        (7, lambda t: t[..., ::2]),
        (8, lambda t: t.t()),
    ],
)
def test_refusals(i, wrong):
    x, parameters, places = arguments()
    changed = [wrong(p) if j == i else p for j, p in enumerate(parameters)]
    for operator in (operators.forward, operators.forward_train):
        with pytest.raises(ValueError, match=r"^block_cuda_fwd\w*: .*; got "):
            operator(x, *changed, None, None, *places)


def test_planes_must_be_channels_last():
    x, parameters, places = arguments(planes=True)
    with pytest.raises(ValueError, match="planes in channels_last"):
        operators.forward(x.contiguous(), *parameters, None, None, *places)


@pytest.mark.parametrize("param_dtype", [BF16, F32])
def test_a_compiled_block_does_not_keep_the_hidden_tensor(param_dtype):
    """AOTAutograd may keep what the forward pass computes for the backward pass. Of two operators it cannot see into,
    there is no hidden tensor to keep; of the ops' own products there was."""
    kept = []

    def forward(graph, inputs):
        outputs = next(node for node in graph.graph.nodes if node.op == "output").args[0]
        kept.append([(tuple(node.meta["val"].shape), node.meta["val"].dtype) for node in outputs if node is not None])
        return graph

    c, n, side = 16, 2, 8
    block = randomise(convnextv2.Block(c), 0).to(param_dtype)
    x = torch.randn(n, c, side, side, dtype=BF16).to(memory_format=torch.channels_last).requires_grad_()
    backend = aot_autograd(fw_compiler=forward, bw_compiler=lambda graph, inputs: graph)
    with cf.use_backend("cuda"), torch.autocast("cpu", BF16, enabled=param_dtype == F32):
        compiled = torch.compile(block, backend=backend, fullgraph=True)
        want, got = block(x), compiled(x)
    assert torch.equal(want, got)
    got.sum().backward()
    assert len(kept) == 1
    rows = n * side * side
    sizes = [int(torch.Size(shape).numel()) for shape, _ in kept[0]]
    assert max(sizes) <= max(rows * c, copies_bytes(x, block.dwconv.weight, block.pwconv1.weight, block.pwconv2.weight))
    assert not any(rows in shape and 4 * c in shape for shape, _ in kept[0])
