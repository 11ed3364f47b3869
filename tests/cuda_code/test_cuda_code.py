"""The machine code of the CUDA kernels: registers, spills, wide accesses, matrix instructions. No GPU is needed."""

import re

import pytest

from . import resources
from .compiling import instructions, needs_disassembler, needs_nvcc, short, usage, warnings

pytestmark = needs_nvcc
# Compiled here; the others were when the table was written, from the same sources.
INSPECTED = ("sm_80", "sm_90")


def test_compiles_without_a_warning():
    assert not warnings(INSPECTED)


def test_no_spills():
    assert not resources.faults(usage(INSPECTED))


def test_registers():
    """As in the table; `python -m tests.cuda_code.resources --write` writes it anew."""
    assert not resources.differences(usage(INSPECTED))


def test_the_table_has_every_architecture():
    rows = resources.read()[2]
    assert {arch for _, arch in rows} >= {"sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"}


# Kernels that take a vector's length as a parameter: 4 floats or 8 halves are 16 bytes.
VECTORS = re.compile(r"\b(float, 4|BFloat16, 8|Half, 8)\b|<uint4\b")
# And those that take it from the type
ALWAYS_VECTORS = re.compile(r"^dwconv_(forward|backward)_kernel<")
# These write sums over rows, a float per thread, or pairs of channels; or 4 floats as 4 halves.
NARROW_STORES = re.compile(
    r"^(\w+_(squares|products)_kernel|dwconv_backward_kernel)<|^mlp_output_gradient_kernel<(BFloat16|Half), float, 4>"
)
WIDE_LOAD, WIDE_STORE = re.compile(r"^(LDG|LDGSTS)\..*\b128\b"), re.compile(r"^STG\..*\b128\b")


@needs_disassembler
@pytest.mark.parametrize("arch", INSPECTED)
def test_vectors_are_moved_whole(arch):
    """16 bytes a time; what the compiler splits costs four instructions, and reaches no memory's full rate."""
    found = instructions(arch)
    wide = {kernel: codes for kernel, codes in found.items() if VECTORS.search(kernel) or ALWAYS_VECTORS.search(kernel)}
    assert wide and len(wide) < len(found)
    no_load = [kernel for kernel, codes in wide.items() if not any(map(WIDE_LOAD.match, codes))]
    no_store = [kernel for kernel, codes in wide.items() if not any(map(WIDE_STORE.match, codes))]
    assert not no_load
    assert not [kernel for kernel in no_store if not NARROW_STORES.search(kernel)]


@needs_disassembler
@pytest.mark.parametrize("arch", INSPECTED)
def test_local_memory_is_not_touched(arch):
    assert not {
        kernel for kernel, codes in instructions(arch).items() if any(c.startswith(("LDL", "STL")) for c in codes)
    }


@needs_disassembler
@pytest.mark.parametrize("arch", INSPECTED)
def test_matrix_kernels_multiply_matrices(arch):
    found = {kernel: codes for kernel, codes in instructions(arch).items() if re.search(r"(^|_)mma", kernel)}
    assert not [kernel for kernel, codes in found.items() if not any(code.startswith("HMMA") for code in codes)]


def test_short_names():
    name = "void cnv2::(anonymous namespace)::some_kernel<cnv2::Half, 8, (bool)1>(cnv2::Params<int>, int)"
    assert short(name) == "some_kernel<Half, 8, 1>"
    assert short("cnv2::sum_kernel(float const*)") == "sum_kernel"
