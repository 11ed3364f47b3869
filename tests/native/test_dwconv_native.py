"""The native CPU operators of the depthwise convolution against float64, on every instruction set of this machine."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from convnextv2_fast import dispatch
from convnextv2_fast.dispatch import Spec
from convnextv2_fast.layouts import DenseLayout, PatchLayout, SiteLayout
from convnextv2_fast.ops._dwconv import reference
from convnextv2_fast.ops._dwconv_layer_norm import cuda
from convnextv2_fast.ops._shared.sites import Sites
from convnextv2_fast.testing import Problem, make, relative_error, tolerance
from tests.native.isas import ISAS, needs_library, on_isa
from tests.ops.test_all_ops import assert_as_good_as_torch, run

pytestmark = [pytest.mark.cpu_kernel, needs_library]

EPS = 1e-6
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
# Every H and W of 1, 3, 7, 13, 14, 56, every C of 1, 8, 40, 48, 96, 352, every N of 0, 1, 3.
SHAPES = [
    (1, 1, 1, 1),
    (3, 1, 1, 352),
    (3, 1, 3, 8),
    (1, 3, 1, 40),
    (1, 3, 7, 48),
    (3, 7, 7, 40),
    (1, 7, 7, 352),
    (1, 7, 56, 8),
    (1, 13, 13, 96),
    (3, 13, 14, 1),
    (1, 14, 14, 48),
    (1, 14, 3, 352),
    (1, 56, 13, 8),
    (1, 56, 56, 40),
    (0, 7, 7, 40),
]


def problem(shape, dtype=F32, param_dtype=None, bias=True):
    """(x, kernel, bias, ln_weight, ln_bias), rounded to their dtypes; the kernel is float32 throughout."""
    *_, c = shape
    param_dtype = param_dtype or dtype
    params = [torch.randn(c) if bias else None, torch.randn(c), torch.randn(c)]
    kernel = (torch.randn(49, c) / 7).to(param_dtype).float()
    return (torch.randn(shape).to(dtype), kernel, *(p if p is None else p.to(param_dtype) for p in params))


OPS = torch.ops.convnextv2_fast
FORWARD, FORWARD_TRAIN = OPS.dwconv_layer_norm_fwd.default, OPS.dwconv_layer_norm_fwd_train.default


def sited(x: Tensor):
    """Rows of x `[N, H, W, C]`, and what the operators want to know of their plane."""
    return x.flatten(0, 2), (*x.shape[1:3], None)


def plane_of(layout):
    """Height, width and the map of the sites, as the operators take them."""
    h, w, _, site_map = Sites.of(torch.empty(0, 0), layout)
    return h, w, site_map


def forward(x, *params):
    rows, sites = sited(x)
    return FORWARD(rows, *params, EPS, *sites).view(x.shape)


def forward_train(x, *params):
    rows, sites = sited(x)
    return [t.view(x.shape) for t in FORWARD_TRAIN(rows, *params, EPS, *sites)]


def plain(x: Tensor, kernel: Tensor, bias: Tensor | None, ln_weight: Tensor, ln_bias: Tensor):
    """Plain PyTorch in x's dtype: y, z."""
    c = x.shape[-1]
    kernel, ln_weight, ln_bias = (t.to(x.dtype) for t in (kernel, ln_weight, ln_bias))
    weight = kernel.view(7, 7, c).permute(2, 1, 0).unsqueeze(1)
    bias = None if bias is None else bias.to(x.dtype)
    z = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=3, groups=c).permute(0, 2, 3, 1)
    return F.layer_norm(z, (c,), ln_weight, ln_bias, EPS), z


def exactly(*args: Tensor | None):
    return plain(*(None if t is None else t.double() for t in args))


@functools.cache  # every instruction set gets the same problem
def judged_problem(shape, dtype, param_dtype):
    args = problem(shape, dtype, param_dtype, bias=shape[0] != 3)
    nothing = (None,) * 2
    return (args, exactly(*args), plain(*args)) if shape[0] else (args, nothing, nothing)


@pytest.mark.parametrize(
    ("dtype", "param_dtype"), [(F32, F32), (BF16, BF16), (BF16, F32), (F16, F16), (F16, F32)], ids=str
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64(isa, shape, dtype, param_dtype):
    args, (want_y, want_z), (plain_y, plain_z) = judged_problem(shape, dtype, param_dtype)
    y, z = forward_train(*args)
    assert torch.equal(forward(*args), y)  # no NaN left: torch.empty is poisoned
    assert y.shape == z.shape == shape and y.dtype == z.dtype == dtype
    if not y.numel():
        return
    assert relative_error(y, want_y) <= tolerance(relative_error(plain_y, want_y), dtype)
    assert relative_error(z, want_z) <= tolerance(relative_error(plain_z, want_z), dtype)


def test_statistics_survive_a_large_mean(isa):
    """Two passes: a common offset a thousand times the spread leaves the float32 bits of the difference."""
    x, kernel, _, ln_weight, ln_bias = problem((2, 5, 6, 48))
    bias = torch.randn(48) + 1000.0
    args = (x, kernel, bias, ln_weight, ln_bias)
    want = exactly(*args)[0]
    assert relative_error(forward(*args), want) <= tolerance(relative_error(plain(*args)[0], want), F32)


def test_special_values_stay_where_they_are(isa):
    """An infinity or a NaN in x reaches the pixels within three columns and rows of it, and no others."""
    for dtype in (F32, BF16, F16):
        for value in (float("nan"), float("inf")):
            args = problem((1, 12, 17, 24), dtype)
            args[0][0, 2, 8, 5] = value
            bad = forward(*args).isnan().any(-1)[0]
            expected = torch.zeros(12, 17, dtype=torch.bool)
            expected[0:6, 5:12] = True
            assert torch.equal(bad, expected)


def sparse(kind: str, n=3, h=14, w=12):
    """Layouts of an `[n, h, w]` plane: FCMAE's patches, ragged ones, scattered sites in a shuffled order, few, none."""
    if kind.startswith("patch"):
        s = int(kind[5:])
        mask = torch.argsort(torch.rand(n, 12), dim=1) >= 5
        return PatchLayout.from_mask(mask.float(), s, grid=(3, 4))
    if kind == "ragged":
        return PatchLayout.from_mask((torch.rand(n, 4, 3) < 0.5).float(), 4)
    active = torch.zeros(n, h, w)
    if kind == "site":
        active = (torch.rand(n, h, w) < 0.4).float()
    if kind == "one":
        active[n - 1, h // 2, w - 1] = 1
    if kind == "shuffled":
        coordinates = (torch.rand(1, h, w) < 0.5).nonzero()
        return SiteLayout.from_coordinates(coordinates[torch.randperm(len(coordinates))], (1, h, w))
    return SiteLayout.from_mask(active)


SPARSE = ("patch8", "patch4", "patch2", "patch1", "ragged", "site", "shuffled", "one", "none")


def gradients(layout, c, dtype):
    """dy, x, kernel; what float64 and plain PyTorch make of them: y, dx, dkernel, dbias."""
    args = (torch.randn(layout.rows, c).to(dtype), torch.randn(layout.rows, c).to(dtype), torch.randn(49, c) / 7)

    def judge(dtype):
        dy, x, kernel = (t.to(dtype) for t in args)
        leaves = [x.requires_grad_(), kernel.requires_grad_(), torch.zeros(c, dtype=dtype, requires_grad=True)]
        y = reference.sparse_dwconv(*leaves, layout=layout)
        return [y, *torch.autograd.grad(y, leaves, dy)]

    return args, judge(torch.float64), judge(F32 if dtype == F32 else dtype)


def check_gradients(layout, c, dtype):
    (dy, x, kernel), exact, plain = gradients(layout, c, dtype)
    plane = plane_of(layout)
    y = OPS.dwconv_fwd.default(x, kernel, None, *plane)
    dx, dparams = OPS.dwconv_bwd.default(dy, x, kernel, True, True, *plane)
    assert y.shape == dx.shape == x.shape and y.dtype == dx.dtype == dtype and dparams.dtype == F32
    for got, want, theirs in zip((y, dx, dparams[:49], dparams[49]), exact, plain, strict=True):
        assert relative_error(got, want) <= tolerance(relative_error(theirs, want), dtype)
    only = OPS.dwconv_bwd.default(dy, x, kernel, True, False, *plane)
    assert torch.equal(only[0], dx) and only[1].shape == (0, c)
    only = OPS.dwconv_bwd.default(dy, x, kernel, False, True, *plane)
    assert torch.equal(only[1], dparams) and only[0].shape == (0, c)


@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_of_dense_planes(isa, shape, dtype):
    check_gradients(DenseLayout(*shape[:3]), shape[3], dtype)


@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=str)
@pytest.mark.parametrize("kind", SPARSE)
def test_gradients_of_sparse_planes(isa, kind, dtype):
    check_gradients(sparse(kind), 40, dtype)


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("kind", SPARSE)
def test_layer_norm_of_sparse_planes(isa, kind, dtype):
    layout = sparse(kind)
    problem = make("dwconv_layer_norm", 1, 1, 1, 24, "rows")
    x = torch.randn(layout.rows, 24, dtype=torch.float64)
    problem = Problem(problem.op, dict(problem.tensors, x=x), {"layout": layout})
    plain, got = run(problem, dtype, "torch"), run(problem, dtype, "cpu")
    exact = {name: want for name, want in run(problem, torch.float64, "torch").items() if want.numel()}
    assert_as_good_as_torch(got, plain, exact, dtype, "cpu")


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    plane=st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 40)),
    c=st.integers(1, 70),
    density=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0, None]),
    isa=st.sampled_from(ISAS),
    dtype=st.sampled_from([F32, BF16, F16]),
)
def test_any_shape(plane, c, density, isa, dtype):
    """`density`: of active sites; None: a dense plane."""
    torch.manual_seed(0)
    layout = DenseLayout(*plane) if density is None else SiteLayout.from_mask(torch.rand(plane) < density)
    with on_isa(isa):
        check_gradients(layout, c, dtype)


def bits_by_threads(function):
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 1, 2, 3, 7, 32):
            torch.set_num_threads(count)
            results.append(function())
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=str)
def test_bitwise_deterministic(isa, dtype):
    """Runs and thread counts do not change a bit."""
    args = problem((3, 14, 56, 40), dtype)
    bits_by_threads(lambda: forward_train(*args))


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("kind", ["dense", "patch8", "patch1", "site"])
def test_bitwise_deterministic_gradients(isa, kind, dtype):
    layout = DenseLayout(3, 30, 56) if kind == "dense" else sparse(kind, h=40, w=40)
    dy, x, kernel = (torch.randn(t, 72) for t in (layout.rows, layout.rows, 49))
    args = (dy.to(dtype), x.to(dtype), kernel, True, True, *plane_of(layout))
    bits_by_threads(lambda: OPS.dwconv_bwd.default(*args))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("dtype", "param_dtype"), [(F32, F32), (BF16, F32)], ids=str)
def test_opcheck(dtype, param_dtype, bias):
    x, *params = problem((2, 3, 5, 8), dtype, param_dtype, bias)
    rows, sites = sited(x)
    for op in (FORWARD, FORWARD_TRAIN):
        torch.library.opcheck(op, (rows, *params, EPS, *sites))
    kernel = params[0]
    torch.library.opcheck(OPS.dwconv_fwd.default, (rows, kernel, params[1], *sites))
    torch.library.opcheck(OPS.dwconv_bwd.default, (rows, rows, kernel, True, True, *sites))


def test_outputs_are_plainly_contiguous():
    """Also where dimensions of size 1 let x have other strides; as the shape function says."""
    x, *params = problem((1, 1, 1, 8))
    odd = x.as_strided((1, 8), (999, 1))
    assert odd.is_contiguous()
    y, z = FORWARD_TRAIN(odd, *params, EPS, 1, 1, None)
    assert y.stride() == z.stride() == (8, 1)
    meta = FORWARD(odd.to("meta"), *(p.to("meta") for p in params), EPS, 1, 1, None)
    assert meta.stride() == y.stride()


BAD = {
    "x must be contiguous rows [T, C]": lambda x, k, b, g, t: (x.t().contiguous().t(), k, b, g, t),
    "kernel must be contiguous float32 [49, C]": lambda x, k, b, g, t: (x, k[:48], b, g, t),
    "bias, ln_weight and ln_bias must be contiguous [C]": lambda x, k, b, g, t: (x, k, b, g[:5], t),
    "x must be float32, bfloat16 or float16": lambda x, k, b, g, t: (x.double(), k, b, g, t),
    "the parameters must all have x's dtype, or all be float32": lambda x, k, b, g, t: (x, k, b, g.half(), t),
    "T must be a multiple of H * W": lambda x, k, b, g, t: (x[1:], k, b, g, t),
}


@pytest.mark.parametrize("wants", BAD)
@pytest.mark.parametrize("name", ["dwconv_layer_norm_fwd", "dwconv_layer_norm_fwd_train"])
def test_bad_inputs(wants, name):
    x, *params = problem((2, 4, 5, 8))
    rows, sites = sited(x)
    args = BAD[wants](rows, *params)
    with pytest.raises(ValueError) as caught:
        getattr(OPS, name).default(*args, EPS, *sites)
    message = str(caught.value)
    assert message.startswith(f"{name}: {wants}; got x {tuple(args[0].shape)} {str(args[0].dtype)[6:]}")
    assert "\n" not in message


def spec(**changes) -> Spec:
    base = Spec("dwconv_layer_norm", "cpu", F32, F32, 8, "dense", False)
    return base._replace(**changes)


def test_reasons():
    for op in ("dwconv_layer_norm", "sparse_dwconv"):
        (cpu,) = (i for i in dispatch.implementations(op) if i.backend == "cpu")
        for changes in ({}, {"dtype": BF16, "param_dtype": F32, "needs_grad": True}, {"layout": "patch"}):
            assert cpu.reasons(spec(op=op, **changes)) == []
        for changes, words in (
            ({"device": "cuda"}, "run on cpu tensors, these are on cuda"),
            ({"dtype": torch.float64, "param_dtype": torch.float64}, "float32, float16 and bfloat16, not float64"),
        ):
            reasons = cpu.reasons(spec(op=op, **changes))
            assert reasons and any(words in reason for reason in reasons), reasons
    assert cuda.CUDA.reasons(spec())  # these tensors are on the CPU
