"""Each instruction set's kernel: its index logic executed, its instructions where they belong, its choice by name."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convnextv2_fast import library
from tests.native.cxx import AVX2, HERE, SANITIZED, cpu_has, needs_avx2, needs_compiler, run_check

needs_library = pytest.mark.skipif(library.why_not("cpu") is not None, reason=str(library.why_not("cpu")))


@needs_compiler
@pytest.mark.parametrize(
    ("vector", "strip", "flags"),
    [
        pytest.param("Vec4", 7, SANITIZED, id="scalar-sanitized"),
        pytest.param("Vec8", 7, AVX2, id="avx2", marks=needs_avx2),
        # The AVX-512 vectors themselves, each instruction on sixteen lanes in memory.
        pytest.param(
            "Vec16",
            14,
            (*AVX2, "-O0", "-include", str(HERE / "avx512_emulation.h")),  # -O0: optimising all that takes a minute
            id="avx512-emulated",
            marks=needs_avx2,
        ),
    ],
)
def test_kernel_of_each_width(tmp_path, vector, strip, flags):
    """Odd shapes, dense and sparse, all dtypes, guarded buffers; close to double precision, whatever the tiling."""
    said = run_check("dwconv_cpu_check.cpp", tmp_path, f"-DCNV2_VECTOR={vector}", f"-DCNV2_STRIP={strip}", *flags)
    assert re.search(r"^360 problems, 0 failed", said), said


@needs_compiler
@needs_avx2
@pytest.mark.skipif(not cpu_has("amx_tile", "amx_bf16"), reason="no AMX here")
def test_emulated_tiles_are_those_of_the_processor(tmp_path):
    assert run_check("amx_check.cpp", tmp_path, *AVX2).startswith("768000 numbers, 0 differ")


def functions_of(path: Path) -> dict[str, str]:
    """Disassembly of every function of a shared library, by its demangled name."""
    text = subprocess.run(
        ["objdump", "-dC", "--no-show-raw-insn", str(path)], capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, str] = {}
    for block in re.split(r"\n\n", text):
        head = re.match(r"[0-9a-f]+ <(.*)>:\n", block)
        if head:
            found[head[1]] = found.get(head[1], "") + block[head.end() :]
    return found


@needs_library
@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump")
def test_instructions_stay_in_their_kernels():
    """AVX-512 and AVX2 code only in the functions that the run-time choice guards, and there it is used."""
    built = library.build_info()["cpu_isa"].split()
    if "avx512" not in built:
        pytest.skip(f"built for {built} only")
    functions = functions_of(Path(library.__file__).parent / "_C_cpu.so")
    kernels = {
        width: [code for name, code in functions.items() if re.search(rf"Vec{width}[,>E]", name)]
        for width in (4, 8, 16)
    }
    assert all(kernels.values()), "the library has no local symbols: was it stripped?"
    zmm = re.compile(r"vfmadd\w+ps .*%zmm")
    assert sum(len(zmm.findall(code)) for code in kernels[16]) >= 3 * 98  # three dtypes, 14 columns x 7 taps each
    ymm = re.compile(r"vfmadd\w+ps .*%ymm")
    assert sum(len(ymm.findall(code)) for code in kernels[8]) >= 3 * 49
    assert not any("%zmm" in code for code in kernels[8])
    for name, code in functions.items():
        if not re.search(r"Vec(8|16)[,>E]|Avx2Sums", name):
            assert not re.search(r"%[yz]mm|\tvfm|\tv[a-z]+ps ", code), f"{name} needs more than the baseline CPU"


@needs_library
@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump")
def test_bfloat16_instructions_stay_in_their_kernels():
    """Instructions on bfloat16 pairs only where the run-time choice allows them: in kernels for those operands."""
    built = library.build_info()["cpu_isa"].split()
    if "avx512_bf16" not in built:
        pytest.skip("not built for AVX512_BF16")
    products = products_of_gradients = tiles = tiles_of_gradients = 0
    for name, code in functions_of(Path(library.__file__).parent / "_C_cpu.so").items():
        found = re.findall(r"\tv(dpbf16ps|cvtne2?ps2bf16)", code)
        assert not found or re.search("BFloat16(Pairs|Tiles)", name), f"{name} needs AVX512_BF16"
        products += found.count("dpbf16ps")
        products_of_gradients += found.count("dpbf16ps") if "Alternating<" in name else 0
        found = re.findall(r"\t(tdpbf16ps|tile\w+|ldtilecfg|sttilecfg)", code)
        assert not found or "BFloat16Tiles" in name, f"{name} needs AMX"
        tiles += found.count("tdpbf16ps")
        tiles_of_gradients += found.count("tdpbf16ps") if "Gradient" in name or "Backward" in name else 0
    each_height = sum(2 * rows for rows in range(1, 15))  # a product of each height, two vectors wide
    assert products_of_gradients >= each_height  # a gradient's rows lie twice as far apart
    assert products - products_of_gradients >= each_height
    if "amx" in built:
        assert tiles_of_gradients >= 4 + 2  # of two tiles' rows, and of one
        assert tiles - tiles_of_gradients >= 4 + 2


@needs_library
def test_choice_by_name():
    before = library.cpu_isa()
    assert before in library.CPU_ISAS
    library.set_cpu_isa("scalar")
    assert library.cpu_isa() == "scalar"
    library.set_cpu_isa(before)
    with pytest.raises(ValueError, match=r"'mmx' is not available: the best here is '\w+'"):
        library.set_cpu_isa("mmx")
    assert library.cpu_isa() == before


@needs_library
@pytest.mark.skipif(cpu_has("avx512_bf16"), reason="this CPU has AVX512_BF16")
def test_what_the_cpu_lacks_is_refused():
    before = library.cpu_isa()
    with pytest.raises(ValueError, match=r"'avx512_bf16' is not available: the best here is '\w+', of 'scalar', "):
        library.set_cpu_isa("avx512_bf16")
    assert library.cpu_isa() == before


def import_with(value: str) -> subprocess.CompletedProcess:
    code = "from convnextv2_fast import library; print(library.cpu_isa())"
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, library.ISA_ENVIRONMENT: value},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_library
def test_choice_by_environment():
    lowered = import_with("scalar")
    assert lowered.stdout.strip() == "scalar", lowered.stderr
    assert library.ISA_ENVIRONMENT not in lowered.stderr
    best = library.cpu_isa()
    too_much = import_with(library.CPU_ISAS[-1] if best != library.CPU_ISAS[-1] else "avx1024")
    assert too_much.returncode == 0, too_much.stderr
    assert too_much.stdout.strip() == best  # never more than the CPU has
    assert f"RuntimeWarning: {library.ISA_ENVIRONMENT}: instruction set" in too_much.stderr


@needs_library
@pytest.mark.skipif(not cpu_has("avx512_bf16", "avx512_fp16"), reason="no CPU whose VDPBF16PS may be slow")
def test_slow_instructions_are_not_chosen():
    """Intel's CPUs with AMX multiply bfloat16 on its tiles, or, where those are hidden, as floats."""
    if "GenuineIntel" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("not Intel's")
    tiles = cpu_has("amx_tile", "amx_bf16") and "amx" in library.build_info()["cpu_isa"].split()
    assert import_with("").stdout.strip() == ("amx" if tiles else "avx512")


@needs_library
def test_all_available_sets_agree():
    """The same problem on every instruction set of this machine: equal up to the order of additions."""
    x, kernel, vector = torch.randn(2, 9, 11, 40), torch.randn(49, 40) / 7, torch.randn(40)
    best = library.cpu_isa()
    results = []
    try:
        for isa in library.CPU_ISAS[: library.CPU_ISAS.index(best) + 1]:
            library.set_cpu_isa(isa)
            forward = torch.ops.convnextv2_fast.dwconv_layer_norm_fwd.default
            results.append(forward(x.flatten(0, 2), kernel, vector, vector, vector, 1e-6, 9, 11, None))
    finally:
        library.set_cpu_isa(best)
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], atol=2e-5, rtol=2e-5)
