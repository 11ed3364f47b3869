"""The launches of all eight models compile for every family of chips, without a spill, on its matrix instructions: all
of them when the table is written, a tenth here."""

from functools import partial

import pytest
import torch

from convnextv2_fast import library

pytestmark = [
    pytest.mark.triton,
    pytest.mark.slow,
    pytest.mark.skipif(library.triton_why_not() is not None, reason=str(library.triton_why_not())),
]
if library.triton_why_not() is None:
    from convnextv2_fast.ops._mlp_grn import triton_fused
    from convnextv2_fast.ops._triton import chip as chips
    from convnextv2_fast.testing import KERNEL_OPS, make
    from tools.kernels import resources, sources
    from tools.kernels.compiling import Resources, compile_all, compiled, launches

RENEW = "python -m tools.kernels.resources --write"


@pytest.fixture(scope="module")
def tasks():
    return resources.jobs(resources.FAMILIES)


@pytest.fixture(scope="module")
def found(tasks):
    return resources.compiled(resources.sample(tasks))


def test_no_spills_within_shared_memory_on_matrix_units(found):
    bad = resources.faults(found)
    assert not bad, "\n".join(bad)


def test_the_resource_table_is_current(tasks, found):
    """Every kernel and launch of these sources is in it; on the version of Triton that wrote it, none takes more
    than it says of its kernel and family."""
    _, rows = resources.read()
    kernels = resources.by_kernel(tasks)
    assert set(rows) == set(kernels), f"kernels changed: {RENEW}"
    for kernel, launched in kernels.items():
        assert rows[kernel].launches == resources.distinct(launched), f"the launches of {kernel.name} changed: {RENEW}"
        assert set(rows[kernel].most) == {family for _, family in launched}
    assert len(tasks) // 12 < len(found) < len(tasks) // 4
    if resources.same_triton():
        for (family, job), taken in found.items():
            row = rows[sources.kernel(job.module, job.kernel)]
            assert not row.exceeded(family, taken), f"{family} {job.label()} takes {taken}, at most {row.most[family]}"


def test_a_row_is_of_the_kernels_text_and_launches_alone():
    """Not of its comments, its folder or the code that launches it; of what it calls, too."""
    kernel = partial(sources.kernel, "convnextv2_fast.ops._layer_norm.triton_kernels")
    assert kernel("forward_kernel").source != kernel("backward_kernel").source
    texts = {}
    sources.add_texts(triton_fused.fused_kernel, texts)
    assert {"fused_kernel", "_w1_piece", "_piece", "gelu"} <= set(texts) and not [t for t in texts.values() if "#" in t]
    options = (("num_warps", 4), ("num_stages", 2))
    job = resources.Job("some.module", "kernel", (("x", "*fp32"),), (("C", 96),), (0,), options)
    assert job.label() == "kernel fp32 C=96 warps=4 stages=2 aligned=0"


def test_a_launch_that_takes_more_is_seen():
    row = resources.Row("", {"sm_90": (64, 0, 1024)})
    assert not row.exceeded("sm_90", Resources(64, 0, 512, "")) and row.exceeded("sm_90", Resources(65, 0, 512, ""))
    assert row.exceeded("sm_90", Resources(10, 8, 0, "")) and row.exceeded("sm_90", Resources(10, 0, 2048, ""))


@pytest.mark.parametrize("family", ["sm_90", "gfx942"])
def test_what_the_hidden_tile_is_made_of(family):
    """On NVIDIA an exponential, a reciprocal and half a rounding an element, and a few shuffles a tile.
    On AMD no PTX."""
    problem = make("mlp_grn", 1, 8, 8, 96).to(torch.bfloat16, requires_grad=False)
    with chips.assume(chips.KNOWN[family]):
        call = partial(problem.public, backend="triton", strategy="materialize")
        (job,) = (job for job in launches(call) if job.kernel == "hidden_kernel")
    made, sizes = compiled(job, family), dict(job.constants)
    assert sizes["PTX"] == (family != "gfx942")
    if not sizes["PTX"]:
        return
    elements = sizes["BM"] * sizes["BN"] // (32 * dict(job.options)["num_warps"])
    ptx = made.asm["ptx"]
    assert ptx.count("ex2.approx.ftz.f32") == ptx.count("rcp.approx.ftz.f32") == elements
    assert ptx.count("cvt.rn.bf16x2.f32") == elements // 2
    assert ptx.count("shfl.sync") <= 12  # two columns a thread, over four lanes; masked and not


@pytest.mark.parametrize("plane", [(1, 1), (9, 1), (1, 16), (16, 16)], ids=str)
def test_planes_of_any_size_compile(plane):
    """Triton makes constants of sizes that are 1, and sees those that are multiples of 16."""
    jobs = {}
    for op in KERNEL_OPS:
        for kind in ("dense", "site") if op not in ("layer_norm", "sparse_dwconv") else ("rows",):
            if op == "patch_conv" and kind == "dense" and min(plane) < 2:
                continue  # no output
            problem = make(op, 1, *plane, 96, kind).to(torch.bfloat16)
            with chips.assume(chips.KNOWN["sm_90"]):
                jobs |= dict.fromkeys((job, "sm_90") for job in launches(partial(resources.passes, problem)))
    bad = [(job.label(), r) for job, _, r in compile_all(jobs) if not isinstance(r, Resources) or r.spills > 32]
    assert not bad, bad
