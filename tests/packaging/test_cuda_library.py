"""_C_cuda.so as a file: what it needs from other libraries. Building it needs nvcc, none of this needs a GPU."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from convnextv2_fast import library
from tools.wheels import trial
from tools.wheels.process import run

PRODUCTS = ("mm", "addmm", "bmm")  # csrc/torch/products_cuda.h
PATH = Path(library.__file__).parent / "_C_cuda.so"
CUDA_TORCH = os.environ.get("CUDA_TORCH_PYTHON", "")

pytestmark = pytest.mark.skipif(not PATH.exists(), reason="_C_cuda.so was not built")
needs_binutils = pytest.mark.skipif(None in map(shutil.which, ("readelf", "nm")), reason="no readelf, or no nm")


def check_needed_libraries(path: Path) -> None:
    """It records that it needs libtorch_cuda.so, even if linked with a CPU-only torch, and no CUDA runtime."""
    dynamic = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic)
    assert {"libtorch_cuda.so", "libtorch_cpu.so"} <= set(needed)
    assert not [name for name in needed if name.startswith(("libcudart", "libcuda.", "libpython"))]
    assert not re.search(r"RPATH|RUNPATH", dynamic)


def check_what_only_a_cuda_torch_has(path: Path) -> None:
    """The symbols that a CPU-only torch lacks are these few, all of libtorch_cuda.so and its dependencies."""
    undefined = subprocess.run(
        ["nm", "-D", "--undefined-only", path], capture_output=True, text=True, check=True
    ).stdout
    names = {line.split()[-1] for line in undefined.splitlines()}
    torch_names = {name for name in names if name.startswith(("aoti_torch_", "torch_"))}
    cuda_only = {"aoti_torch_get_current_cuda_stream", "torch_c10_cuda_check_msg", "torch_c10_cuda_free_error_msg"}
    cuda_only |= {f"aoti_torch_cuda_{product}_out" for product in PRODUCTS}
    assert cuda_only <= torch_names
    lib = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    exported = subprocess.run(["nm", "-D", "--defined-only", lib], capture_output=True, text=True, check=True).stdout
    assert not torch_names - cuda_only - {line.split()[-1] for line in exported.splitlines()}
    assert not [name for name in names if re.match(r"cu[A-Z]|cuda[A-Z]", name)]  # the runtime is inside


@needs_binutils
@pytest.mark.parametrize("check", [check_needed_libraries, check_what_only_a_cuda_torch_has])
def test_symbols(check):
    """test_wheels.py asks the same of a library that it builds."""
    check(PATH)


def test_architectures():
    archs = library.build_info()["cuda_archs"].split()
    assert [arch for arch in archs if arch.endswith("-real")]
    if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        assert {"80-real", "86-real", "89-real", "90-real"} <= set(archs) and archs[-1].endswith("-virtual")


@pytest.mark.skipif(torch.version.cuda is not None, reason="this is a CUDA build of torch")
def test_refused_on_a_cpu_torch():
    assert "is not a CUDA build; install a CUDA build of torch" in library.why_not("cuda")


@pytest.mark.skipif(not CUDA_TORCH, reason="CUDA_TORCH_PYTHON names no Python that has a CUDA build of torch")
def test_loads_on_a_cuda_torch():
    """The very files built here, every symbol bound at once, on another torch; a GPU is not needed."""
    expected = trial.expectations(("cpu", "cuda"), installed=False)
    environment = {"PYTHONPATH": str(PATH.parents[1]), "LD_BIND_NOW": "1"}
    said = run(CUDA_TORCH, "-c", trial.INSIDE.read_text(), expected, cwd=PATH.parents[1], **environment).stdout
    assert re.search(r"CUDA \d+\.\d+: operators", said), said
