"""Random calls of every op on every backend that is here: the right result, or one documented error."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import convnextv2_fast as cf
from convnextv2_fast import dispatch
from convnextv2_fast.testing import ALL_OPS, kinds, make, relative_error, tolerance

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
PRESENT = [name for name in ("auto", "cpu", "torch") if not dispatch.backends().get(name)]
FUZZ = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def laid_out(t, how):
    """The same values in other memory: with gaps, backwards dimensions, an offset, or as it is."""
    if how == "gaps" and t.ndim:
        wide = t.new_full((*t.shape[:-1], 2 * t.shape[-1] + 1), float("nan"))
        wide[..., 1::2] = t
        return wide[..., 1::2]
    if how == "transposed":
        return t.permute(*reversed(range(t.ndim))).contiguous().permute(*reversed(range(t.ndim)))
    if how == "offset":
        return torch.cat([t.new_full((1,), float("nan")), t.reshape(-1)])[1:].view(t.shape)
    return t


@pytest.mark.parametrize("backend", PRESENT)
@pytest.mark.parametrize("op", ALL_OPS)
def test_any_valid_call_is_right(op, backend):
    """Values and gradients, at most twice plain PyTorch's error in the same dtype."""

    @FUZZ
    @given(
        plane=st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9)),
        c=st.integers(2 if op == "block" else 1, 40),  # of one channel LayerNorm makes a constant: gradients are noise
        kind=st.sampled_from(kinds(op)),
        dtype=st.sampled_from(DTYPES),
        float_parameters=st.booleans(),
        layouts=st.lists(st.sampled_from(["plain", "gaps", "transposed", "offset"]), min_size=12, max_size=12),
        gradients=st.booleans(),
        seed=st.integers(0, 99),
    )
    def run(plane, c, kind, dtype, float_parameters, layouts, gradients, seed):
        n, h, w = plane
        if op == "patch_conv":
            h, w = h + 1, w + 1
        problem = make(op, n, h, w, c, kind, seed)
        given_dtype = torch.float32 if float_parameters else dtype
        exact, plain, ours = (
            problem.to(d, gradients, param_dtype=p)
            for d, p in ((torch.float64, torch.float64), (dtype, given_dtype), (dtype, given_dtype))
        )
        rounded = problem.to(dtype, False, param_dtype=given_dtype)
        for name, t in exact.tensors.items():  # the inputs as the others see them
            t.data.copy_(rounded.tensors[name])
        leaves = dict(ours.tensors)
        ours.tensors = {k: laid_out(t, how) for (k, t), how in zip(leaves.items(), layouts, strict=False)}
        want, ref, got = exact.reference(), plain.reference(), ours.public(backend=backend)
        assert got.shape == want.shape
        bound = tolerance(relative_error(ref, want), dtype)
        assert relative_error(got, want) <= bound
        if gradients and want.numel():
            weight = torch.randn(want.shape, generator=torch.Generator().manual_seed(seed))
            for y in (want, ref, got):
                (y * weight.to(y.dtype)).sum().backward()
            for name, leaf in leaves.items():
                right, near = exact.tensors[name].grad, plain.tensors[name].grad
                assert leaf.grad.shape == right.shape and leaf.grad.dtype == leaf.dtype
                assert relative_error(leaf.grad, right) <= 2 * tolerance(relative_error(near, right), dtype), name

    run()


def spoiled(t, how, amount):
    """A tensor that does not fit any more, or another dtype."""
    if how == "longer":
        return torch.cat([t, t.narrow(amount % t.ndim, 0, min(1, t.shape[amount % t.ndim]))], amount % t.ndim)
    if how == "deeper":
        return t.unsqueeze(amount % (t.ndim + 1))
    if how == "flat":
        return t.reshape(-1)
    if how == "scalar":
        return t.new_zeros(())
    if how == "empty":
        return t[:0]
    return t.to({"integer": torch.int64, "complex": torch.complex64, "double": torch.float64, "bool": torch.bool}[how])


@pytest.mark.parametrize("backend", PRESENT)
@pytest.mark.parametrize("op", ALL_OPS)
def test_a_spoiled_call_is_right_or_one_clear_error(op, backend):
    """Never a crash, never an error from below: what does not fit is an UnsupportedInputError that names the op."""

    @settings(FUZZ, max_examples=250)
    @given(
        which=st.integers(0, 8),
        how=st.sampled_from(["longer", "deeper", "flat", "scalar", "empty", "integer", "complex", "double", "bool"]),
        amount=st.integers(0, 3),
        kind=st.sampled_from(kinds(op)),
        n=st.integers(1, 2),
    )
    def run(which, how, amount, kind, n):
        problem = make(op, n, 4, 6, 8, kind).to(torch.float32, False)
        name = list(problem.tensors)[which % len(problem.tensors)]
        problem.tensors[name] = spoiled(problem.tensors[name], how, amount)
        try:
            y = problem.public(backend=backend)
        except cf.UnsupportedInputError as error:
            halves = ("dwconv_layer_norm:", "mlp_grn:") if op == "block" else ()
            assert str(error).startswith((f"{op}:", f"backend '{backend}'", *halves)) and "\n" not in str(error), error
        else:
            assert y.isfinite().all()

    run()
