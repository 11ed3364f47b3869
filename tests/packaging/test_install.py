"""Every ordinary way of installing ends with native kernels, seen from inside the checkout and from outside.

The libraries are compiled without optimisation here (DEBUG=1), and each object once: the point is what is found, built
and loaded.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tools.native import finding, planning
from tools.wheels.build import copy_sources

pytestmark = pytest.mark.packaging
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
needs_compiler = pytest.mark.skipif(finding.compiler() is None, reason="no C++ compiler")
LINKED = ("convnextv2_fast", "__editable__", "_virtualenv", "distutils-precedence", "torchvision_operators")


def environment(folder: Path) -> Path:
    """A virtual environment that holds the packages of this one, but not this package. Returns its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if not package.name.startswith(LINKED):
            (site / package.name).symlink_to(package)
    return python


def run(*command: object, cwd: Path, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command with an environment that says nothing of this package or of the environment that the tests run in."""
    left_out = ("CONVNEXTV2_FAST_", "PYTHON", "VIRTUAL_ENV", "TORCH_CUDA", "PIP_REQUIRE_VIRTUALENV")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environ | variables, capture_output=True, text=True, timeout=900
    )
    said = done.stdout + done.stderr
    if "No matching distribution found for setuptools" in said or "No solution found when resolving" in said:
        pytest.skip("the package index that build requirements come from is not reachable")
    assert not check or done.returncode == 0, said[-6000:]
    return done


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A clone, in a path with a space, of the sources as they are."""
    folder = copy_sources(tmp_path_factory.mktemp("a checkout") / "convnextv2 fast")
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (("init", "-q"), ("add", "-A"), (*author, "commit", "-q", "-m", "as it is")):
        run("git", *words, cwd=folder)
    return folder


WAYS = {
    "pip": ("pip", "."),
    "pip without isolation": ("pip", "--no-build-isolation", "."),
    "pip from git": ("pip", "git+file://{checkout}"),
    "uv": ("uv", "."),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """One environment for all ways: what was compiled for the first fits the next, too."""
    return environment(tmp_path_factory.mktemp("an environment"))


@pytest.fixture(scope="module")
def objects(tmp_path_factory) -> str:
    """What CMake puts before each call of the compiler."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "objects"  # one for all workers
    folder.mkdir(exist_ok=True)
    return ";".join([sys.executable, str(Path(__file__).with_name("launcher.py")), str(folder)])


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_kernels_after(way, checkout, shared, objects, tmp_path):
    python = shared
    run(*PIP, "--python", python, "uninstall", "--yes", "convnextv2_fast", cwd=tmp_path)
    tool, *words = WAYS[way]
    words = [word.format(checkout=checkout.as_posix().replace(" ", "%20")) for word in words]
    install = (*PIP, "--python", python, "install", "--no-deps", "-v")
    if tool == "uv":
        if importlib.util.find_spec("uv") is None:
            pytest.skip("uv is not installed")
        install = (sys.executable, "-m", "uv", "pip", "install", "--no-deps", "-v", "--python", python)
    caches = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "CMAKE_CXX_COMPILER_LAUNCHER": objects}
    done = run(*install, *words, cwd=checkout, DEBUG="1", **caches)
    assert "convnextv2_fast: compiling the CPU library against torch" in done.stdout + done.stderr
    for folder in (checkout, tmp_path):
        found = run(python, "-c", "import convnextv2_fast as c; print(c.__file__)", cwd=folder).stdout.strip()
        assert Path(found).is_relative_to(shared.parents[1]), "the checkout hides the installation"
        checked = run(python, "-m", "convnextv2_fast", "check", "--op", "grn", "--backend", "cpu", cwd=folder).stdout
        assert "ok      grn               cpu" in checked and " 0 failed" in checked


def test_without_a_compiler_everything_says_so(checkout, tmp_path):
    """The build's output, the import, and the command `check`, which fails. The script is installed, too."""
    python = environment(tmp_path / "environment")
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    install = (*PIP, "--python", python, "install", "--no-deps", "--no-build-isolation", "-v", ".")
    done = run(*install, cwd=checkout, PATH=str(nothing), CXX="")
    said = done.stdout + done.stderr
    assert "convnextv2_fast: NO NATIVE KERNELS: they need a C++17 compiler (apt-get install g++)" in said
    done = run(python, "-c", "import convnextv2_fast", cwd=tmp_path)
    assert done.stderr.count("UserWarning: convnextv2_fast has no native CPU kernels: plain PyTorch runs") == 1
    quiet = run(python, "-c", "import convnextv2_fast", cwd=tmp_path, CONVNEXTV2_FAST_QUIET="1")
    assert "UserWarning: convnextv2_fast" not in quiet.stderr
    said = run(python.with_name("convnextv2-fast"), "--version", cwd=tmp_path, CONVNEXTV2_FAST_QUIET="1").stdout
    assert said.startswith("convnextv2_fast 0.")
    checked = run(python, "-m", "convnextv2_fast", "check", "--op", "grn", cwd=tmp_path, check=False)
    assert checked.returncode == 1 and "FAIL    _C_cpu.so" in checked.stdout


TORCH = finding.Torch(Path("torch"), "2.13.0+cpu", "")
CUDA_TORCH = finding.Torch(Path("torch"), "2.13.0+cu130", "13.0")


@pytest.mark.parametrize(
    ("torch", "variables", "gpus", "cuda", "archs"),
    [
        (TORCH, {}, [], False, ""),
        (TORCH, {}, ["9.0"], False, ""),  # this torch could not load it
        (TORCH, {"CONVNEXTV2_FAST_CUDA": "1"}, [], True, ""),
        (CUDA_TORCH, {}, ["8.0", "9.0"], True, "8.0;9.0"),
        (CUDA_TORCH, {}, [], True, ""),
        (CUDA_TORCH, {"TORCH_CUDA_ARCH_LIST": "9.0+PTX"}, ["8.0"], True, "9.0+PTX"),
        (CUDA_TORCH, {"TORCH_CUDA_ARCH_LIST": "all"}, ["8.0"], True, ""),
        (CUDA_TORCH, {"CONVNEXTV2_FAST_CUDA": "0"}, ["8.0"], False, ""),
    ],
)
def test_cuda_is_compiled_where_it_can_run(torch, variables, gpus, cuda, archs, monkeypatch):
    for name in ("CONVNEXTV2_FAST_CUDA", "CONVNEXTV2_FAST_CPU", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(finding, "gpus", lambda: gpus)
    monkeypatch.setattr(finding, "nvcc", lambda: "nvcc")
    monkeypatch.setattr(finding, "compiler", lambda: "c++")
    monkeypatch.setattr(finding, "tool", lambda name, *folders: name)
    plan = planning.make(torch)
    assert (plan.cpu, plan.cuda, plan.archs) == (True, cuda, archs)


def test_a_torch_that_is_too_old_is_named(monkeypatch):
    monkeypatch.delenv("CONVNEXTV2_FAST_CPU", raising=False)
    plan = planning.make(finding.Torch(Path("torch"), "2.9.1", ""))
    assert not plan.cpu and "torch >= 2.10 (this is 2.9.1)" in plan.notes[0]
