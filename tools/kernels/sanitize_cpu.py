"""`make sanitize-cpu`: the CPU kernels' checks, every instruction set that this machine has, under sanitizers.

AddressSanitizer with UndefinedBehaviorSanitizer, all of both, and ThreadSanitizer for the checks that run threads.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.native.cxx import AVX2, COMPILER, HERE, ROOT, cpu_has

AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq")
BF16, AMX = (*AVX512, "-mavx512bf16"), (*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16")
HAS_AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512dq")
PAIRS = {"mlp_grn_cpu_check.cpp": True, "rows_cpu_check.cpp": True}  # what multiplies them; on threads?
CHECKS = {**PAIRS, "dwconv_cpu_check.cpp": False}
POOL = {"pool_check.cpp": True}
KERNELS = {  # vector type, rows of a register tile, columns of a strip, flags, what the CPU must have, checks
    "scalar": ("Vec4", 6, 7, (), (), {**CHECKS, **POOL}),
    "avx2": ("Vec8", 6, 7, AVX2, ("avx2", "fma", "f16c"), CHECKS),
    "avx512": ("Vec16", 14, 14, AVX512, HAS_AVX512, CHECKS),
    "avx512_bf16": ("Vec16", 14, 14, (*BF16, "-DCNV2_PAIRS=BFloat16Pairs"), (*HAS_AVX512, "avx512_bf16"), PAIRS),
    "amx": ("Vec16", 32, 14, (*AMX, "-DCNV2_PAIRS=BFloat16Tiles"), (*HAS_AVX512, "avx512_bf16", "amx_bf16"), PAIRS),
}
SANITIZERS = {
    "address,undefined": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-fsanitize=thread",),
}


def run(source: str, kernel: str, sanitizer: str, folder: Path) -> bool:
    """Compiles and runs one check; prints a line; whether it passed."""
    vector, rows, strip, flags, _, _ = KERNELS[kernel]
    program = folder / "check"
    includes = [f"-I{path}" for path in (ROOT / "csrc", HERE)]
    command = [str(COMPILER), "-std=c++17", "-O1", "-g1", "-pthread", "-w", *includes, *flags, *SANITIZERS[sanitizer]]
    command += [f"-DCNV2_VECTOR={vector}", f"-DCNV2_ROWS={rows}", f"-DCNV2_STRIP={strip}", str(HERE / source)]
    began = time.monotonic()
    done = subprocess.run([*command, "-o", str(program)], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    passed = done.returncode == 0
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    print(
        f"{'ok  ' if passed else 'FAIL'} {source} {kernel} {sanitizer}: {last} ({time.monotonic() - began:.0f} s)",
        flush=True,
    )
    if not passed:
        print((done.stdout + done.stderr)[-4000:])
    return passed


def main() -> int:
    if COMPILER is None:
        print("no C++ compiler on PATH")
        return 1
    passed = True
    with tempfile.TemporaryDirectory() as folder:
        for kernel, (*_, needs, checks) in KERNELS.items():
            if needs and not cpu_has(*needs):
                print(f"skip {kernel}: this CPU has not all of {', '.join(needs)}")
                continue
            for source, threaded in checks.items():
                for sanitizer in SANITIZERS if threaded else ("address,undefined",):
                    passed &= run(source, kernel, sanitizer, Path(folder))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
