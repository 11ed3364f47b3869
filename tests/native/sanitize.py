"""`make sanitize-cpu`: the CPU kernels' checks, every vector type that this machine has, under sanitizers.

AddressSanitizer with UndefinedBehaviorSanitizer, all of both, and ThreadSanitizer for the checks that run threads.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .cxx import AVX2, COMPILER, HERE, ROOT, cpu_has

AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq")
VECTORS = {  # the vector type: rows of a register tile, columns of a strip, flags, what the CPU must have
    "Vec4": (6, 7, (), ()),
    "Vec8": (6, 7, AVX2, ("avx2", "fma", "f16c")),
    "Vec16": (14, 14, AVX512, ("avx512f", "avx512bw", "avx512vl", "avx512dq")),
}
CHECKS = {"mlp_grn_cpu_check.cpp": True, "rows_cpu_check.cpp": True, "dwconv_cpu_check.cpp": False}  # on threads?
SANITIZERS = {
    "address,undefined": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-fsanitize=thread",),
}


def run(source: str, vector: str, sanitizer: str, folder: Path) -> bool:
    """Compiles and runs one check; prints a line; whether it passed."""
    rows, strip, flags, _ = VECTORS[vector]
    program = folder / "check"
    includes = [f"-I{path}" for path in (ROOT / "csrc", ROOT / "csrc/include", HERE)]
    command = [str(COMPILER), "-std=c++17", "-O1", "-g1", "-pthread", "-w", *includes, *flags, *SANITIZERS[sanitizer]]
    command += [f"-DCNV2_VECTOR={vector}", f"-DCNV2_ROWS={rows}", f"-DCNV2_STRIP={strip}", str(HERE / source)]
    began = time.monotonic()
    done = subprocess.run([*command, "-o", str(program)], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    passed = done.returncode == 0
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    print(
        f"{'ok  ' if passed else 'FAIL'} {source} {vector} {sanitizer}: {last} ({time.monotonic() - began:.0f} s)",
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
        for vector, (_, _, _, needs) in VECTORS.items():
            if needs and not cpu_has(*needs):
                print(f"skip {vector}: this CPU has not all of {', '.join(needs)}")
                continue
            for source, threaded in CHECKS.items():
                for sanitizer in SANITIZERS if threaded else ("address,undefined",):
                    passed &= run(source, vector, sanitizer, Path(folder))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
