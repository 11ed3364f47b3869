"""The launches of all eight models compile for every family of chips, without a spill, on its matrix instructions: all
of them when the table is written, a tenth here."""

import pytest

from convnextv2_fast import library

pytestmark = [
    pytest.mark.triton,
    pytest.mark.slow,
    pytest.mark.skipif(library.triton_why_not() is not None, reason=str(library.triton_why_not())),
]


@pytest.fixture(scope="module")
def tasks():
    from . import resources

    return resources.jobs(resources.FAMILIES)


@pytest.fixture(scope="module")
def found(tasks):
    from . import resources

    return resources.compiled(resources.sample(tasks))


def test_no_spills_within_shared_memory_on_matrix_units(found):
    from . import resources

    bad = resources.faults(found)
    assert not bad, "\n".join(bad)


def test_the_resource_table_is_current(tasks, found):
    """Every launch of these sources is in it; its figures are exact on the version of Triton that wrote it."""
    import triton

    from . import resources

    version, made_from, rows = resources.read()
    assert made_from == resources.sources(), "the kernels changed: python -m tests.triton.resources --write"
    assert set(rows) == {(family, job.label()) for job, family in tasks}
    assert len(rows) // 12 < len(found) < len(rows) // 4
    if version == triton.__version__:
        assert {key: rows[key] for key in found} == found


@pytest.mark.parametrize("plane", [(1, 1), (9, 1), (1, 16), (16, 16)], ids=str)
def test_planes_of_any_size_compile(plane):
    """Triton makes constants of sizes that are 1, and sees those that are multiples of 16."""

    import torch

    from convnextv2_fast.ops._triton import chip as chips
    from convnextv2_fast.testing import KERNEL_OPS, implementation, make

    from .compiling import Resources, compile_all, launches

    jobs = {}
    for op in KERNEL_OPS:
        for kind in ("dense", "site") if op not in ("layer_norm", "sparse_dwconv") else ("rows",):
            if op == "patch_conv" and kind == "dense" and min(plane) < 2:
                continue  # no output
            problem = make(op, 1, *plane, 96, kind).to(torch.bfloat16)
            run = implementation(op, "triton")

            def call(problem=problem, run=run):
                y = problem.call(run)
                y.backward(torch.zeros_like(y))
                with torch.no_grad():
                    problem.call(run)

            with chips.assume(chips.KNOWN["sm_90"]):
                jobs |= dict.fromkeys((job, "sm_90") for job in launches(call))
    bad = [(job.label(), r) for job, _, r in compile_all(jobs) if not isinstance(r, Resources) or r.spills > 32]
    assert not bad, bad
