"""The CPU kernels of layer_norm, grn, patch_conv and pooling on every instruction set of this machine."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convnextv2_fast import ops
from convnextv2_fast.layouts import DenseLayout
from convnextv2_fast.ops._shared import packed
from convnextv2_fast.testing import kinds, make
from tests.native.cxx import AVX2, HERE, SANITIZED, each_width, needs_avx2, needs_compiler, run_check
from tests.native.isas import ISAS, needs_library, on_isa

pytestmark = pytest.mark.cpu_kernel
OPS = ("layer_norm", "grn", "patch_conv")
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


@needs_compiler
@each_width
def test_kernel_of_each_width(tmp_path, vector, rows, flags):
    said = run_check(
        "rows_cpu_check.cpp", tmp_path, f"-DCNV2_VECTOR={vector}", f"-DCNV2_ROWS={rows}", "-pthread", *flags
    )
    assert re.search(r"^300 problems, 0 failed", said), said


@needs_compiler
@needs_avx2
@pytest.mark.parametrize(
    ("header", "operands", "rows"), [("avx512_bf16", "BFloat16Pairs", 14), ("amx", "BFloat16Tiles", 32)]
)
def test_patch_conv_of_bfloat16_pairs(tmp_path, header, operands, rows):
    """What CPUs with AVX512_BF16 or AMX run, the instructions emulated, under sanitizers: weights and normalised pixels
    are rounded once, sums are float32."""
    emulated = ("-include", str(HERE / f"{header}_emulation.h"), "-DCNV2_VECTOR=Vec16", f"-DCNV2_ROWS={rows}")
    flags = (f"-DCNV2_PAIRS={operands}", "-pthread", *AVX2, *SANITIZED, *emulated)
    said = run_check("rows_cpu_check.cpp", tmp_path, *flags)
    assert re.search(r"^9 problems, 0 failed", said), said


def results(problem, backend):
    y = problem.public(backend=backend)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y))
    return {"out": y.detach()} | {name: t.grad for name, t in problem.tensors.items()}


@needs_library
@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.sampled_from(OPS),
    st.integers(1, 3),
    st.integers(2, 13),
    st.integers(2, 13),
    st.integers(6, 70),
    st.sampled_from(["dense", "rows", "ragged", "site"]),
    st.sampled_from([F32, BF16, F16]),
    st.sampled_from(ISAS),
)
def test_any_shape(op, n, h, w, c, kind, dtype, name):
    """Forward and every gradient against float64 on the same rounded numbers."""
    kind = kind if kind in kinds(op) else "dense"
    with on_isa(name):
        problem = make(op, n, h, w, c, kind, seed=n * h * w)
        got, want = results(problem.to(dtype), "cpu"), results(problem.to(dtype).to(torch.float64), "torch")
        for what, exact in want.items():
            if exact.numel():
                scale = exact.abs().max().clamp_min(1e-2)
                error = ((got[what].double() - exact).abs().max() / scale).item()
                assert error <= 16 * torch.finfo(dtype).eps * math.sqrt(4 * c), f"{op} {what}: {error:.1e}"


@needs_library
@pytest.mark.parametrize("op", OPS)
def test_bitwise_deterministic(isa, op):
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 1, 2, 5):
            torch.set_num_threads(count)
            found.append(results(make(op, 3, 24, 30, 40).to(F32), "cpu"))
    finally:
        torch.set_num_threads(threads)
    for result in found[1:]:
        assert all(torch.equal(result[name], want) for name, want in found[0].items())


@needs_library
def test_statistics_survive_a_large_mean(isa):
    x = torch.randn(50, 70) + 3000.0
    weight, bias = torch.randn(70), torch.randn(70)
    want = torch.nn.functional.layer_norm(x.double(), (70,), weight.double(), bias.double(), 1e-6)
    plain = torch.nn.functional.layer_norm(x, (70,), weight, bias, 1e-6)
    with torch.no_grad():
        y = ops.layer_norm(x, weight, bias, backend="cpu")
    assert (y - want).abs().max() <= 2 * (plain - want).abs().max() + 1e-5


@needs_library
@pytest.mark.parametrize("size", [(32, 32), (45, 38)])
def test_the_stem_reads_images_as_they_come(isa, size):
    """NCHW, channels_last and strided images; a ragged edge is cut off."""
    wide = torch.randn(2, 5, *size)
    weight, bias, norm = torch.randn(40, 3, 4, 4), torch.randn(40), (torch.randn(40), torch.randn(40))
    image = wide[:, 1:4]
    want = ops.patch_conv(image.permute(0, 2, 3, 1), weight, bias, norm_after=norm, backend="torch")
    for x in (image, image.contiguous(), image.contiguous(memory_format=torch.channels_last)):
        with torch.inference_mode():
            y = ops.patch_conv(x.permute(0, 2, 3, 1), weight, bias, norm_after=norm, backend="cpu")
        torch.testing.assert_close(y, want, rtol=1e-4, atol=2e-5)


@needs_library
@pytest.mark.parametrize("form", ["conv2d", "minkowski"])
def test_changed_weights_are_packed_anew(form):
    packed.clear()
    x = torch.randn(1, 8, 8, 6)
    weight = torch.randn(10, 6, 2, 2) if form == "conv2d" else torch.randn(4, 6, 10)
    layout = None if form == "conv2d" else DenseLayout(1, 4, 4)
    for change in (lambda: None, lambda: weight.mul_(2.0), lambda: weight.data.add_(1.0)):
        change()
        with torch.no_grad():
            y = ops.patch_conv(x, weight, None, layout=layout, backend="cpu")
        want = ops.patch_conv(x, weight, None, layout=layout, backend="torch")
        torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-5)
    assert packed.count() == 1


@needs_library
def test_opcheck():
    x, v = torch.randn(12, 8), torch.randn(8)
    calls = torch.ops.convnextv2_fast
    torch.library.opcheck(calls.layer_norm_fwd.default, (x, v, v, 1e-6))
    torch.library.opcheck(calls.layer_norm_bwd.default, (x, x, v, 1e-6))
    torch.library.opcheck(calls.grn_fwd.default, (x, v, v, 1e-6, 4, 3, None, None))
    torch.library.opcheck(calls.grn_bwd.default, (x, x, v, torch.rand(3, 8), 1e-6, 4, 3, None, None))
    dz, rows = torch.randn(2, 5), torch.randn(5, 32)
    torch.library.opcheck(calls.patch_conv_cpu_dparams.default, (dz, x[:8], v, v, 1e-6, None, 2, 2, 4, 2))
    torch.library.opcheck(calls.patch_conv_cpu_dx.default, (dz, rows, 8, True, None, 2, 2, 4, 2))
    image, weight = torch.randn(1, 4, 4, 3), torch.randn(5, 3, 2, 2)
    args = (image, weight, None, None, None, None, None, 1e-6, None, 4, 4, 4, 2, None)
    torch.library.opcheck(calls.patch_conv_cpu_fwd.default, args)


@needs_library
def test_bad_inputs():
    calls, x, v = torch.ops.convnextv2_fast, torch.randn(12, 8), torch.randn(8)
    with pytest.raises(ValueError, match="layer_norm_fwd: weight must be a contiguous vector"):
        calls.layer_norm_fwd.default(x, v[:4], v, 1e-6)
    with pytest.raises(ValueError, match="grn_fwd: groups must hold all rows"):
        calls.grn_fwd.default(x, v, v, 1e-6, 5, 3, None, None)
    dz = torch.randn(2, 5)
    with pytest.raises(ValueError, match="patch_conv_cpu_dparams: rows must be those of the plane"):
        calls.patch_conv_cpu_dparams.default(dz, x, None, None, 1e-6, None, 2, 2, 4, 2)
    with pytest.raises(ValueError, match="patch_conv_cpu_dx: weight must be contiguous"):
        calls.patch_conv_cpu_dx.default(dz, torch.randn(32, 5).t(), 8, True, None, 2, 2, 4, 2)
