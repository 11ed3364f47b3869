"""What convnextv2_fast.library says of libraries that are missing, stale or broken: a reason, never an exception."""

import os
import subprocess
import sys

import pytest
import torch

from convnextv2_fast import library

GOOD = {"version": library.__version__, "target_abi": "2.10"}


def test_missing(tmp_path):
    why = library._load("cpu", tmp_path, {})
    assert why.startswith(
        "this installation has no _C_cpu.so; with a C++ compiler (g++) on the machine, install it again"
    )
    why = library._load("cuda", tmp_path, {})
    assert ("is a CPU build" if torch.version.cuda is None else "with nvcc and a C++ compiler") in why


@pytest.mark.parametrize(("gpu", "cuda", "name"), [(True, "13.0", "cuda"), (True, None, "cpu"), (False, "13.0", "cpu")])
def test_what_is_expected(gpu, cuda, name, monkeypatch):
    """A missing library of the device at hand is told; one of another device is not, nor where that is intended."""
    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: gpu if path == "/dev/nvidiactl" else exists(path))
    monkeypatch.setattr(torch.version, "cuda", cuda)
    assert library.expected() == name
    monkeypatch.delenv(library.QUIET_ENVIRONMENT, raising=False)
    monkeypatch.setattr(library, "_missing", {"cpu": None, "cuda": None} | {name: "it is not there"})
    assert library.missing_kernels().startswith(f"no native {name.upper()} kernels: ")
    assert library.missing_kernels().endswith(" (it is not there)")
    monkeypatch.setenv(library.QUIET_ENVIRONMENT, "1")
    assert library.missing_kernels() is None
    monkeypatch.delenv(library.QUIET_ENVIRONMENT)
    monkeypatch.setattr(library, "_missing", {"cpu": "gone", "cuda": "gone"} | {name: None})
    assert library.missing_kernels() is None


def test_unloadable(tmp_path):
    (tmp_path / "_C_cpu.so").write_text("no library")
    why = library._load("cpu", tmp_path, GOOD)
    assert why.startswith(f"_C_cpu.so does not load on torch {torch.__version__} (") and "\n" not in why


@pytest.mark.parametrize("info", [{}, {"version": "0.0.1"}, {"version": "0.0.1+cu130"}])
def test_stale(tmp_path, info):
    (tmp_path / "_C_cpu.so").write_text("not looked at")
    why = library._load("cpu", tmp_path, info)
    assert f"was built for convnextv2_fast {info.get('version', 'an unknown version')}, this is" in why


def test_torch_too_old(tmp_path, monkeypatch):
    (tmp_path / "_C_cpu.so").write_text("not looked at")
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    assert "needs torch >= 2.10, this is 2.9.1+cpu" in library._load("cpu", tmp_path, GOOD)


@pytest.mark.skipif(torch.version.cuda is not None, reason="this is a CUDA build of torch")
def test_cuda_library_on_a_cpu_torch(tmp_path):
    (tmp_path / "_C_cuda.so").write_text("not looked at")
    assert "is not a CUDA build; install a CUDA build of torch" in library._load("cuda", tmp_path, GOOD)


def test_broken_build_record(tmp_path):
    (tmp_path / "_build_info.json").write_text("{")
    assert library._read_build_info(tmp_path) == {}


def test_unknown_name():
    with pytest.raises(ValueError, match="unknown native library 'tpu': 'cpu' or 'cuda'"):
        library.why_not("tpu")


@pytest.mark.parametrize(
    ("capability", "archs", "runs"),
    [
        ((8, 0), "80-real 90-real", True),
        ((8, 7), "80-real 86-real", True),  # binary code runs on later minor versions
        ((8, 6), "89-real", False),  # not on earlier ones
        ((7, 5), "80-real 120-virtual", False),
        ((10, 3), "100-real", True),
        ((11, 0), "100-real 120-virtual", False),
        ((12, 1), "90-real 120-virtual", True),
        ((13, 0), "90-real 90-virtual", True),  # PTX is compiled for what comes later
        ((9, 0), "90a-real", True),
        ((9, 0), "", False),
    ],
)
def test_cuda_code_for(capability, archs, runs):
    assert library.cuda_code_for(capability, library.parse_archs(archs)) is runs


def test_import_initialises_no_device():
    code = (
        "import convnextv2_fast, torch, sys; assert not torch.cuda.is_initialized(); "
        "assert not {'triton', 'numpy.testing', 'rich', 'matplotlib', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error::RuntimeWarning", "-c", code], check=True)
