"""mlp_grn's CPU kernels on every instruction set: against double precision, and what holds for the operators."""

import gc
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import convnextv2_fast as cf
from convnextv2_fast import library, ops
from convnextv2_fast.models.convnextv2 import Block
from convnextv2_fast.ops._mlp_grn import cpu
from convnextv2_fast.ops._shared import packed
from convnextv2_fast.testing import make
from tests.native.cxx import AVX2, HERE, SANITIZED, each_width, needs_avx2, needs_compiler, run_check
from tests.native.isas import ISAS, needs_library, on_isa

pytestmark = pytest.mark.cpu_kernel
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


@needs_compiler
@each_width
def test_kernel_of_each_width(tmp_path, vector, rows, flags):
    """Odd sizes, all dtypes, ragged and empty groups, held and in slices, on one to three threads."""
    flags = (f"-DCNV2_VECTOR={vector}", f"-DCNV2_ROWS={rows}", "-pthread", *flags)
    said = run_check("mlp_grn_cpu_check.cpp", tmp_path, *flags)
    assert re.search(r"^192 problems, 0 failed", said), said


@needs_compiler
@needs_avx2
@pytest.mark.parametrize(
    ("header", "operands", "rows"), [("avx512_bf16", "BFloat16Pairs", 14), ("amx", "BFloat16Tiles", 32)]
)
def test_kernel_of_bfloat16_pairs(tmp_path, header, operands, rows):
    """What CPUs with AVX512_BF16 or AMX run, the instructions emulated and counted, under sanitizers: at most twice the
    error of plain bfloat16 modules, in gradients at most their error; the same bits on one to three threads."""
    emulated = ("-include", str(HERE / f"{header}_emulation.h"), "-DCNV2_VECTOR=Vec16", f"-DCNV2_ROWS={rows}")
    flags = (f"-DCNV2_PAIRS={operands}", "-pthread", *AVX2, *SANITIZED, *emulated)
    said = run_check("mlp_grn_cpu_check.cpp", tmp_path, *flags)
    assert re.search(r"^112 problems, 0 failed", said), said


def gradients(problem, backend, **options):
    y = problem.public(backend=backend, **options)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y))
    return {"out": y.detach()} | {name: t.grad for name, t in problem.tensors.items()}


def assert_close(got, want, dtype):
    for name, value in want.items():
        scale = value.abs().max().clamp_min(1e-3)
        error = ((got[name].double() - value).abs().max() / scale).item()
        assert error <= 40 * torch.finfo(dtype).eps, f"{name}: {error:.1e}"


@needs_library
@pytest.mark.parametrize("strategy", [None, "chunked", "recompute", "materialize"])
@pytest.mark.parametrize("kind", ["dense", "patch", "ragged"])
def test_strategies(isa, kind, strategy):
    problem = make("mlp_grn", 3, 12, 11, 33, kind)
    want = gradients(problem.to(torch.float64), "torch")
    assert_close(gradients(problem.to(F32), "cpu", strategy=strategy), want, F32)


@needs_library
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.integers(1, 16),
    st.integers(1, 16),
    st.integers(1, 72),
    st.sampled_from(["dense", "ragged", "site"]),
    st.sampled_from([F32, BF16, F16]),
    st.sampled_from(ISAS),
)
def test_any_shape(n, h, w, c, kind, dtype, name):
    with on_isa(name):
        problem = make("mlp_grn", n, h, w, c, kind, seed=h * w)
        rounded = problem.to(dtype).to(torch.float64)
        with torch.no_grad():
            y, want = problem.to(dtype, False).public(backend="cpu"), rounded.public(backend="torch")
        if y.numel():
            error = (y.double() - want).abs().max() / want.abs().max()
            assert error <= 4 * torch.finfo(dtype).eps * math.sqrt(c)


@needs_library
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_bitwise_deterministic(isa, dtype):
    """Runs and thread counts do not change a bit, forward or backward."""
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 1, 2, 3, 7):
            torch.set_num_threads(count)
            results.append(gradients(make("mlp_grn", 3, 21, 14, 40).to(dtype), "cpu"))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(value, results[0][name]) for name, value in result.items())


@needs_library
@pytest.mark.parametrize("plane", [(7, 7), (14, 14), (28, 28), (33, 30)])
def test_a_sample_does_not_depend_on_its_batch(isa, plane):
    problem = make("mlp_grn", 5, *plane, 24).to(F32, False)
    del problem.tensors["row_scale"]
    whole = problem.public(backend="cpu")
    for i in (0, 3):
        alone = make("mlp_grn", 5, *plane, 24).to(F32, False)
        del alone.tensors["row_scale"]
        for name in ("u", "residual"):
            alone.tensors[name] = alone.tensors[name][i : i + 1]
        assert torch.equal(alone.public(backend="cpu")[0], whole[i])


@needs_library
def test_a_batch_as_one_group_does_not_hold_its_hidden_activations(monkeypatch):
    """A group that is larger than the limit is computed in slices: the same result from less memory."""
    problem = make("mlp_grn", 4, 20, 20, 16, "rows").to(F32)
    problem.options["rows_per_group"] = 1600
    want = gradients(problem, "cpu")
    monkeypatch.setitem(cpu.HELD_BYTES, None, 64 * 100 * 4)
    problem = make("mlp_grn", 4, 20, 20, 16, "rows").to(F32)
    problem.options["rows_per_group"] = 1600
    for name, value in gradients(problem, "cpu").items():
        torch.testing.assert_close(value, want[name], rtol=1e-4, atol=1e-4)


# Weights that are packed once --------------------------------------------------------------------------------------


@pytest.fixture
def block():
    torch.manual_seed(0)
    packed.clear()
    block = Block(24).eval()
    for p in block.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return block


def reference_block(block, x):
    with torch.no_grad(), cf.use_backend("torch"):
        return block(x)


@needs_library
def test_a_block_in_one_call(isa, block):
    for shape in [(1, 24, 7, 7), (3, 24, 5, 9), (2, 24, 40, 30), (0, 24, 4, 4)]:
        x = torch.randn(shape)
        with torch.inference_mode():
            for arranged in (x, x.to(memory_format=torch.channels_last)):
                y = block(arranged)
                assert y.shape == x.shape
                torch.testing.assert_close(y, reference_block(block, x), rtol=1e-5, atol=2e-5)


@needs_library
@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_a_block_in_half_precision(isa, block, dtype):
    x = torch.randn(2, 24, 14, 14)
    half = Block(24).eval().to(dtype)
    half.load_state_dict(block.state_dict())
    with torch.inference_mode():
        y, plain = half(x.to(dtype)), None
        with cf.use_backend("torch"):
            plain = half(x.to(dtype))
    want = reference_block(block.float(), x)
    ours, theirs = ((v.float() - want).abs().max() for v in (y, plain))
    assert ours <= 2 * theirs + 8 * torch.finfo(dtype).eps


CHANGES = {
    "in place": lambda p: p.mul_(1.5),
    "through .data": lambda p: p.data.mul_(1.5),
    "one element": lambda p: p.view(-1)[3].add_(2.0),
    "new memory": lambda p: setattr(p, "data", p.data * 1.5),
}


@needs_library
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_changed_weights_are_packed_anew(block, change, mode):
    x = torch.randn(1, 24, 9, 9)
    with mode():
        block(x)
    for p in block.parameters():
        with torch.no_grad():
            CHANGES[change](p)
        with mode():
            y = block(x)
        torch.testing.assert_close(y, reference_block(block, x), rtol=1e-4, atol=1e-4)


@needs_library
def test_copies_are_made_once_and_go_with_their_weights(block):
    x = torch.randn(1, 24, 5, 5)
    with torch.inference_mode():
        block(x)
    assert packed.held_bytes() >= 4 * 8 * 24 * 24
    (before,) = packed._held.values()
    kept = dict(before.copies)
    with torch.inference_mode():
        block(x)
    (after,) = packed._held.values()
    assert after is before and len(kept) == 1 and all(after.copies[slot] is copy for slot, copy in kept.items())
    other = Block(24).eval()
    with torch.inference_mode():
        other(x)
    assert packed.count() == 2
    del other
    gc.collect()
    assert packed.count() == 1


@needs_library
def test_no_copies_without_prepacking(block, monkeypatch):
    monkeypatch.setattr(packed, "enabled", False)
    x = torch.randn(1, 24, 5, 5)
    with torch.inference_mode():
        torch.testing.assert_close(block(x), reference_block(block, x), rtol=1e-5, atol=1e-5)
    assert packed.count() == 0


@needs_library
def test_weights_made_in_inference_mode():
    with torch.inference_mode():
        block = Block(8).eval()
        x = torch.randn(1, 8, 6, 6)
        before = block(x)
        block.pwconv2.weight.mul_(3.0)
        block.grn.gamma.add_(0.5)
        assert not torch.equal(block(x), before)
        torch.testing.assert_close(block(x), reference_block(block, x), rtol=1e-5, atol=1e-5)


@needs_library
def test_compiled_inference_uses_packed_weights():
    packed.clear()
    block = Block(16).eval()
    x = torch.randn(2, 16, 8, 8)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        want = block(x)
        packed.clear()
        for _ in range(3):
            torch.testing.assert_close(compiled(x), want, rtol=1e-5, atol=1e-5)
    assert packed.count() == 1
    torch.compiler.reset()


@needs_library
@pytest.mark.parametrize("held", [1 << 40, 100 * 100 * 4], ids=["held", "sliced"])
@pytest.mark.parametrize("kind", ["dense", "ragged", "site"])
def test_hidden_activations_saved_or_computed_again(isa, kind, held, monkeypatch):
    """The same gradients, twice from one graph; saved where a float32 stage is wide, not in 16 bits, not if told so."""
    monkeypatch.setitem(cpu.HELD_BYTES, None, held)
    problem = make("mlp_grn", 3, 9, 13, 25, kind).to(F32)
    found, saved = [], []
    for keep_from in (1, 26):
        monkeypatch.setattr(cpu, "SAVE_FROM", keep_from)
        y = problem.public(backend="cpu")
        node = y.grad_fn if "MlpGrn" in y.grad_fn.name() else y.grad_fn.next_functions[0][0]
        saved.append(len(node.saved_tensors))
        for _ in range(2):
            found.append(torch.autograd.grad(y, list(problem.tensors.values()), y.detach(), retain_graph=True))
    assert saved[0] == saved[1] + 1
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    x = torch.empty(1, 25)
    monkeypatch.setattr(cpu, "SAVE_FROM", 25)
    assert cpu.saves_hidden(x, None) and cpu.saves_hidden(x.to(BF16), "materialize")
    assert not (
        cpu.saves_hidden(x.to(BF16), None) or cpu.saves_hidden(x, "chunked") or cpu.saves_hidden(x, "recompute")
    )


@needs_library
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_opcheck(dtype):
    u, w1, w2 = torch.randn(12, 8).to(dtype), torch.randn(20, 8), torch.randn(8, 20)
    b1, gamma, beta, b2 = torch.randn(20), torch.randn(20), torch.randn(20), torch.randn(8)
    args = (u, w1, b1, gamma, beta, w2, b2, None, None, 1e-6, 1 << 20, 4, 3, None, None)
    for save_hidden in (False, True):
        torch.library.opcheck(torch.ops.convnextv2_fast.mlp_grn_cpu_fwd.default, (*args, None, save_hidden))
    norm = torch.rand(3, 20)
    back = (u, u, w1, b1, gamma, beta, w2, norm, 1e-6, 1 << 20, 4, 3, None, None)
    saved_hidden = torch.ops.convnextv2_fast.mlp_grn_cpu_fwd.default(*args, None, True)[2]
    for saved in (None, saved_hidden):
        torch.library.opcheck(torch.ops.convnextv2_fast.mlp_grn_cpu_bwd.default, (*back, saved))


@needs_library
def test_bad_packed_weights_are_refused():
    u, w1, w2, v = torch.randn(4, 8), torch.randn(20, 8), torch.randn(8, 20), torch.randn(20)
    args = (u, w1, v, v, v, w2, torch.randn(8), None, None, 1e-6, 1 << 20, 4, 1, None, None)
    with pytest.raises(ValueError, match="packed must come from this operator's pack"):
        torch.ops.convnextv2_fast.mlp_grn_cpu_fwd.default(*args, torch.randn(7), False)
    with pytest.raises(ValueError, match="w1 must have u's columns"):
        torch.ops.convnextv2_fast.mlp_grn_cpu_fwd.default(u[:, :4].contiguous(), *args[1:], None, False)
    norm = torch.rand(1, 20)
    with pytest.raises(ValueError, match="saved_hidden does not fit"):
        torch.ops.convnextv2_fast.mlp_grn_cpu_bwd.default(
            u, u, w1, v, v, v, w2, norm, 1e-6, 1 << 20, 4, 1, None, None, torch.randn(4, 20)
        )
    saved_hidden = torch.ops.convnextv2_fast.mlp_grn_cpu_fwd.default(*args, None, True)[2]
    other = saved_hidden.clone()
    other.view(torch.int32)[0, 2] += 1 if library.cpu_isa() == "scalar" else -1
    with pytest.raises(ValueError, match=r"forward, on this instruction set, for this dtype; got .* made of mlp_grn's"):
        torch.ops.convnextv2_fast.mlp_grn_cpu_bwd.default(
            u, u, w1, v, v, v, w2, norm, 1e-6, 1 << 20, 4, 1, None, None, other
        )


@pytest.mark.skipif("avx512_bf16" not in ISAS, reason="this CPU or this build has no AVX512_BF16")
def test_weights_packed_for_another_dtype(block):
    """Pairs of bfloat16 and floats: one is not taken for the other, and the copy follows the activations."""
    sizes, x = [], torch.randn(1, 24, 5, 5)
    with torch.no_grad():
        want = block(x)
        for dtype in (BF16, F32, BF16):
            y = block.to(dtype)(x.to(dtype))
            torch.testing.assert_close(y.float(), want, rtol=0.03, atol=0.03)
            sizes.append(packed.held_bytes())
    assert sizes[0] == sizes[2] < sizes[1]
    for n in (1, 20):
        w1, w2, v, b2 = torch.randn(n, n), torch.randn(n, n), torch.randn(n), torch.randn(n)
        for dtype in (F32, BF16):
            args = (torch.randn(4, n).to(dtype), w1, v, v, v, w2, b2, None, None, 1e-6, 1 << 20, 4, 1, None, None)
            copy = torch.ops.convnextv2_fast.mlp_grn_cpu_pack.default(w1, v, v, w2, b2, dtype is F32)
            with pytest.raises(ValueError, match="on this instruction set, for this dtype"):
                torch.ops.convnextv2_fast.mlp_grn_cpu_fwd.default(*args, copy, False)


@needs_library
def test_gelu_over_its_whole_range(isa):
    """Through the op: one input channel, weight 1, GRN off; error at most twice that of torch's float32 GELU."""
    x = torch.cat([torch.linspace(-12, 12, 20001), torch.tensor([0.0, 1e-30, -1e-30, 1e4, -1e4, 88.0, -40.0])])
    eye, zero = torch.ones(1, 1), torch.zeros(1)
    with torch.no_grad():
        y = ops.mlp_grn(x[:, None], eye, zero, zero, zero, eye, zero, rows_per_group=len(x), backend="cpu")[:, 0]
    want = torch.nn.functional.gelu(x.double())
    error, plain = (y - want).abs(), (torch.nn.functional.gelu(x) - want).abs().max()
    assert error.max() <= 2 * plain
    assert (error <= 1.5e-7 * x.abs()).all()
