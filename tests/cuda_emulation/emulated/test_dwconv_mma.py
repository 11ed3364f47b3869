"""The depthwise convolution on the tensor cores, emulated: forward and all gradients against float64."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from convnextv2_fast import ops
from convnextv2_fast.layouts import DenseLayout
from convnextv2_fast.ops._shared import cuda
from convnextv2_fast.testing import make
from tests.cuda_emulation.emulated.test_ops import BF16, F16, F32, judge

# (n, h, w): a slot is 7 rows x 8 columns; less than one, several, ragged ones, groups that end inside an image
OPERATORS = torch.ops.convnextv2_fast
PLANES = [(1, 1, 1), (5, 7, 7), (3, 14, 14), (2, 13, 9), (1, 28, 28), (2, 9, 20), (17, 3, 5), (2, 1, 40), (2, 40, 1)]


@pytest.fixture(autouse=True)
def mma(monkeypatch):
    monkeypatch.setattr(cuda, "DWCONV", "mma")


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
@pytest.mark.parametrize("c", [8, 16, 40, 96])
@pytest.mark.parametrize("plane", PLANES, ids=str)
def test_planes(plane, c, dtype):
    judge(make("sparse_dwconv", *plane, c, "rows"), dtype)


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
@pytest.mark.parametrize("plane", [(9, 13, 20, 40), (9, 20, 13, 40), (20, 7, 17, 72), (2, 28, 28, 8)], ids=str)
def test_blocks_with_many_groups(plane, dtype, device):
    """Two to four groups each; the step to the next one carries over from tiles to bands to images."""
    device("tiny")
    judge(make("sparse_dwconv", *plane, "rows"), dtype)


def test_float32_parameters():
    judge(make("sparse_dwconv", 2, 9, 10, 24, "rows"), BF16, param_dtype=F32)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("tap", [0, 6, 10, 24, 42, 48])
def test_one_tap(tap, flipped):
    """A single tap moves the plane, and its flip moves it back: exact, so every index is right."""
    h, w = 9, 18
    x = torch.randn(2 * h * w, 8).to(BF16)
    kernel = torch.zeros(49, 8)
    kernel[tap] = torch.arange(1.0, 9.0)
    if flipped:
        got, _ = OPERATORS.dwconv_mma_bwd(x, x, kernel, True, False, h, w, None)
    else:
        got = OPERATORS.dwconv_mma_fwd(x, kernel, None, h, w, None)
    dx, dy = (tap // 7 - 3, tap % 7 - 3) if not flipped else (3 - tap // 7, 3 - tap % 7)
    padded = torch.nn.functional.pad(x.view(2, h, w, 8), (0, 0, 3, 3, 3, 3))
    want = padded[:, 3 + dy : 3 + dy + h, 3 + dx : 3 + dx + w] * kernel[tap]
    assert torch.equal(got.view_as(want), want.to(BF16))


def convolve(x, kernel, bias, h, w):
    return ops.sparse_dwconv(x, kernel, bias, layout=DenseLayout(x.shape[0] // (h * w), h, w), backend="cuda")


CALLS = {  # the tensors whose gradients a call wants
    "forward": (),
    "input gradient": ("x",),
    "parameters' gradients": ("kernel",),
    "all gradients": ("x", "kernel"),
}
LEFT = {
    "float32": torch.randn(30, 16),
    "rows not of 16-byte vectors": torch.randn(30, 12).to(BF16),
    "unaligned memory": torch.randn(30 * 16 + 1).to(F16)[1:].view(30, 16),
}


def both_ways(call, x, monkeypatch):
    """The call's results on the tensor cores and on the ordinary kernels; x is its own gradient of the output."""
    results = []
    for name in ("mma", "fma"):
        monkeypatch.setattr(cuda, "DWCONV", name)
        kernel = torch.randn(49, x.shape[1], generator=torch.Generator().manual_seed(0))
        leaves = {"x": x.detach(), "kernel": kernel}
        wanted = [leaves[leaf].requires_grad_() for leaf in CALLS[call]]
        y = convolve(leaves["x"], kernel, None, 5, 6)
        results.append(torch.cat([y.detach(), *(torch.autograd.grad(y, wanted, x) if wanted else ())]))
    return results


@pytest.mark.parametrize("call", CALLS)
def test_the_other_kernels_run_when_asked_for(call, monkeypatch):
    """Other kernels, other sums: nearly the same values, not the same bits."""
    one, other = both_ways(call, torch.randn(3 * 30, 16).to(BF16), monkeypatch)
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, other, rtol=0.05, atol=0.2)


@pytest.mark.parametrize("x", LEFT)
@pytest.mark.parametrize("call", CALLS)
def test_what_the_tensor_cores_leave_to_the_other_kernels(call, x, monkeypatch):
    assert torch.equal(*both_ways(call, LEFT[x], monkeypatch))


REFUSED = {
    "float32": (torch.randn(30, 16), None, "H100"),
    "44 channels": (torch.randn(30, 44).to(BF16), None, "H100"),
    "a sparse plane": (torch.randn(30, 16).to(BF16), torch.arange(30, dtype=torch.int32).view(1, 5, 6), "H100"),
    "an old GPU": (torch.randn(30, 16).to(F16), None, "T4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_their_operators_refuse(case, device):
    x, site_map, name = REFUSED[case]
    device(name)
    kernel, wants = torch.randn(49, x.shape[1]), "the tensor cores' kernels take 16-bit activations of a dense plane"
    with pytest.raises(ValueError, match=f"dwconv_mma_fwd: {wants}"):
        OPERATORS.dwconv_mma_fwd(x, kernel, None, 5, 6, site_map)
    with pytest.raises(ValueError, match=f"dwconv_mma_bwd: {wants}"):
        OPERATORS.dwconv_mma_bwd(x, x, kernel, True, True, 5, 6, site_map)


class Called(TorchDispatchMode):
    """The names of this library's operators that were called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "convnextv2_fast":
            self.names.add(func.name().partition("::")[2].partition(".")[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("c", "operators"),
    [
        (40, {"dwconv_mma_fwd", "layer_norm_fwd", "layer_norm_bwd", "dwconv_mma_bwd"}),
        (44, {"dwconv_layer_norm_fwd_train", "layer_norm_bwd", "dwconv_bwd"}),
    ],
)
@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_layer_norm_is_fused_unless_the_tensor_cores_convolve(c, operators, dtype):
    """They take channels in multiples of 8; with 44, convolution and LayerNorm are one kernel, as without them."""
    problem = make("dwconv_layer_norm", 2, 9, 14, c)
    judge(problem, dtype)
    with Called() as called:
        problem.to(dtype).public(backend="cuda").sum().backward()
    assert called.names == operators


def test_the_input_gradient_alone():
    """Another kernel on the FMA path, the same here."""
    x, dy, kernel = torch.randn(90, 24).to(F16), torch.randn(90, 24).to(F16), torch.randn(49, 24)
    alone, nothing = OPERATORS.dwconv_mma_bwd(dy, x, kernel, True, False, 5, 6, None)
    assert nothing.numel() == 0
    both, params = OPERATORS.dwconv_mma_bwd(dy, x, kernel, True, True, 5, 6, None)
    assert torch.equal(alone, both) and params.shape == (50, 24)


@pytest.mark.parametrize("tap", range(49))
def test_the_gradient_of_one_tap(tap):
    """Small integers: products and sums are exact, so every index is right."""
    h, w, n = 8, 17, 3
    x, dy = (torch.randint(-2, 3, (n * h * w, 8)).to(BF16) for _ in range(2))
    _, params = OPERATORS.dwconv_mma_bwd(dy, x, torch.zeros(49, 8), False, True, h, w, None)
    padded = torch.nn.functional.pad(x.view(n, h, w, 8).float(), (0, 0, 3, 3, 3, 3))
    moved = padded[:, tap % 7 : tap % 7 + h, tap // 7 : tap // 7 + w]
    assert torch.equal(params[tap], (moved * dy.view(n, h, w, 8).float()).sum((0, 1, 2)))
    assert torch.equal(params[49], dy.float().sum(0))


def test_a_large_bias_costs_no_low_bits():
    x, kernel = torch.randn(49, 8).to(F16), (torch.randn(49, 8) / 7).to(F16)
    bias = torch.full((8,), 1000.0, dtype=F16)
    plain = ops.sparse_dwconv(x.double(), kernel.double(), None, layout=DenseLayout(1, 7, 7), backend="torch")
    want = (plain + 1000.0).to(F16)
    assert (convolve(x, kernel, bias, 7, 7) - want).abs().max() <= 0.5


def test_values_that_are_not_finite_stay_in_reach():
    """They spoil at most the rows and the tiles of 8 columns that the window of a tile touches."""
    x = torch.zeros(15 * 40, 8, dtype=BF16)
    x.view(15, 40, 8)[7, 20] = float("inf")
    y = convolve(x, torch.ones(49, 8, dtype=BF16), None, 15, 40).view(15, 40, 8)
    outside = torch.ones(15, 40, dtype=torch.bool)
    outside[4:11, 16:24] = False
    assert not y[outside].any() and y[4:11, 17:24].isinf().any()


@pytest.mark.parametrize("value", ["fma", "mma", "auto", ""])
def test_the_variable(value, monkeypatch):
    monkeypatch.setenv(cuda.DWCONV_ENVIRONMENT, value)
    monkeypatch.setattr(cuda, "DWCONV", cuda._dwconv_kernel())
    assert cuda.tensor_cores() == (value == "mma")


def test_a_bad_value_of_the_variable(monkeypatch):
    monkeypatch.setenv(cuda.DWCONV_ENVIRONMENT, "tensor")
    with pytest.raises(ValueError, match="CONVNEXTV2_FAST_DWCONV must be one of auto, fma, mma, not 'tensor'"):
        cuda._dwconv_kernel()


def test_compile():
    problem = make("sparse_dwconv", 1, 8, 9, 8, "rows").to(BF16, requires_grad=False)
    problem.tensors["x"].requires_grad_()
    compiled = torch.compile(lambda p: p.public(backend="cuda"), fullgraph=True, dynamic=True, backend="aot_eager")
    y = compiled(problem)
    torch.testing.assert_close(y, problem.public(backend="cuda"), rtol=0, atol=0)
    y.sum().backward()
    assert problem.tensors["x"].grad.any()
    torch._dynamo.reset()
