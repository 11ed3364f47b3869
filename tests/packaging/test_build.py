"""Wheels: their tags, what they contain and import, with a compiler and without; the symbols of the libraries."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from convnextv2_fast import library
from tools.wheels.build import build_sdist, build_wheel, copy_sources, unpack
from tools.wheels.process import run
from tools.wheels.trial import install_into_clean_venv

FOLDER = Path(library.__file__).parent
LIBRARIES = sorted(FOLDER.glob("_C_*.so"))
needs_library = pytest.mark.skipif(not LIBRARIES, reason=str(library.why_not("cpu")))

USE = """
import sys, torch, convnextv2_fast as cf
from convnextv2_fast import library
assert sys.prefix in library.__file__, library.__file__
print("version", cf.__version__, library.build_info().get("version"))
print("cpu", library.why_not("cpu"))
x, w, v = torch.randn(2, 7, 9, 40), torch.randn(40, 1, 7, 7), torch.randn(40)
got, want = (cf.ops.dwconv_layer_norm(x, w, v, v, v, backend=b) for b in (None, "torch"))
print("error", (got - want).abs().max().item())
"""


@pytest.mark.parametrize("path", LIBRARIES, ids=lambda p: p.name)
@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
def test_symbols(path):
    """Only C functions of torch's stable ABI; no Python, no C++ of torch; nothing of ours to collide with."""
    undefined = subprocess.run(
        ["nm", "-D", "--undefined-only", path], capture_output=True, text=True, check=True
    ).stdout
    names = [line.split()[-1].split("@")[0] for line in undefined.splitlines()]
    assert any(name.startswith("aoti_torch_") for name in names)
    foreign = [n for n in names if re.match(r"_?Py[A-Z_]|_ZNK?(2at|3c10|5torch)|_ZTIN(2at|3c10|5torch)", n)]
    assert not foreign
    defined = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True).stdout
    exported = [line.split()[-1] for line in defined.splitlines() if line.split()[-2] == "T"]
    assert all(name.startswith("cnv2_") for name in exported), exported
    assert not any(name.startswith("PyInit") for name in exported)


@needs_library
@pytest.mark.skipif(importlib.util.find_spec("torch_abi_audit") is None, reason="torch-abi-audit is not installed")
def test_torch_abi_audit():
    """An independent judge: every library stays within the stable ABI of the oldest torch that we support."""
    for path in LIBRARIES:
        code = "import sys; from torch_abi_audit.cli import main; sys.exit(main(sys.argv[1:]))"
        done = run(sys.executable, "-c", code, path, "--check", "torch", cwd=FOLDER)
        assert re.search(r"Torch ABI: +STABLE\s+Min torch: +2\.10\.0", done.stdout), done.stdout


@needs_library
def test_build_info():
    info = library.build_info()
    assert info == json.loads((FOLDER / "_build_info.json").read_text())
    assert info["target_abi"] == "2.10" and info["version"].startswith(library.__version__)
    assert "scalar" in info["cpu_isa"].split() and info["compiler"]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    return build_sdist(copy_sources(folder / "a copy"), folder / "dist")


@pytest.mark.packaging
def test_sdist_has_every_source(sdist):
    """Whatever the build reads is in the archive, and nothing that was built."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    root = Path(__file__).resolve().parents[2]
    for pattern in ("csrc/**/*.*", "cmake/*", "src/**/*.py", "src/**/*.tsv"):
        for path in root.glob(pattern):
            assert path.relative_to(root).as_posix() in names
    assert {"CMakeLists.txt", "setup.py", "pyproject.toml", "src/convnextv2_fast/py.typed"} <= names
    assert not [name for name in names if name.endswith(".so") or "_build_info" in name]


@pytest.mark.packaging
def test_without_a_compiler_it_is_pure_python(sdist, tmp_path):
    source = unpack(sdist, tmp_path / "source")
    nothing = tmp_path / "empty"
    nothing.mkdir()
    tools = {"PATH": str(nothing), "CXX": ""}
    wheel, said = build_wheel(source, tmp_path, **tools)
    assert wheel.name == f"convnextv2_fast-{library.__version__}-py3-none-any.whl"
    assert "NO NATIVE KERNELS: they need a C++17 compiler (" in said
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert not [n for n in names if n.endswith((".so", "_build_info.json"))]
    assert "convnextv2_fast/ops/_triton/tiles.tsv" in names
    python = install_into_clean_venv(wheel, tmp_path / "environment")
    said = run(python, "-c", USE, cwd=tmp_path).stdout
    assert (
        "cpu this installation has no _C_cpu.so; with a C++ compiler (g++) on the machine, install it again from"
        in said
    )
    assert "error 0.0" in said

    for name in ("CPU", "CUDA"):  # asked for, it must not be left out silently
        asked = {**tools, f"CONVNEXTV2_FAST_{name}": "1"}
        done = run(sys.executable, "setup.py", "bdist_wheel", cwd=source, check=False, **asked)
        assert done.returncode != 0
        assert f"CONVNEXTV2_FAST_{name}=1, but the build needs: a C++17 compiler (" in done.stderr


@pytest.mark.packaging
def test_switches_are_checked(tmp_path):
    source = copy_sources(tmp_path / "source")
    done = run(sys.executable, "setup.py", "bdist_wheel", cwd=source, check=False, CONVNEXTV2_FAST_CUDA="yes")
    assert done.returncode != 0 and "CONVNEXTV2_FAST_CUDA=yes: must be auto, 0 or 1" in done.stderr


@pytest.mark.packaging
def test_libraries_in_the_source_tree_stay_out_of_a_pure_wheel(sdist, tmp_path):
    """An editable installation leaves its libraries there."""
    source = unpack(sdist, tmp_path / "source")
    for name in ("_C_cpu.so", "_C_cuda.so", "_build_info.json"):
        (source / "src" / "convnextv2_fast" / name).write_text("stale")
    wheel, _ = build_wheel(source, tmp_path, CONVNEXTV2_FAST_CPU="0", CONVNEXTV2_FAST_CUDA="0")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert not [n for n in names if n.endswith((".so", "_build_info.json"))]
    assert "convnextv2_fast/ops/_triton/tiles.tsv" in names
