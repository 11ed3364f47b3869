"""Version, local tag and the native build; everything else is in pyproject.toml, all compiler flags in CMakeLists.txt.

Environment:
    CONVNEXTV2_FAST_CPU=auto|0|1            CPU library: auto builds it where a compiler, cmake and torch are found
    CONVNEXTV2_FAST_CUDA=auto|0|1           CUDA library: auto builds it where, besides, nvcc is found
    CONVNEXTV2_FAST_LOCAL_VERSION=cu130     appended to the version: 0.1.0+cu130
    TORCH_CUDA_ARCH_LIST, CUDA_HOME, MAX_JOBS, NVCC_THREADS, CXX, DEBUG=1
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
PACKAGE = "convnextv2_fast"
SOURCE = ROOT / "src" / PACKAGE
TORCH_AT_LEAST = (2, 10)  # the stable ABI that the libraries are built for


def read_version() -> str:
    version = re.search(r'__version__ = "(.+)"', (SOURCE / "_version.py").read_text()).group(1)
    local = os.environ.get("CONVNEXTV2_FAST_LOCAL_VERSION", "")
    return f"{version}+{local}" if local else version


def find_tool(name: str, *folders: str | Path | None) -> str | None:
    """An executable, from the given folders, this Python's scripts (an environment need not be activated), or PATH."""
    places = [str(f) for f in folders if f] + [sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]
    return shutil.which(name, path=os.pathsep.join(places))


def find_compiler() -> str | None:
    if os.environ.get("CXX"):
        return find_tool(os.environ["CXX"].split()[0])
    return next(filter(None, map(find_tool, ("c++", "g++", "clang++"))), None)


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return find_tool("nvcc", home and Path(home) / "bin", "/usr/local/cuda/bin")


def find_torch() -> tuple[Path | None, str]:
    """torch's folder and version, read from its files: importing it takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None, ""
    folder = Path(spec.submodule_search_locations[0])
    found = re.search(r"__version__ = '([^']+)'", (folder / "version.py").read_text())
    return folder, found.group(1) if found else ""


def missing_tools() -> list[str]:
    """What the native build lacks, each with how to get it."""
    missing = []
    if platform.system() != "Linux":
        missing.append("Linux (the native build is made and tested for it alone)")
    if find_compiler() is None:
        missing.append("a C++17 compiler (apt-get install g++)")
    if find_tool("cmake") is None:
        missing.append("cmake >= 3.21 (python -m pip install cmake ninja)")
    folder, version = find_torch()
    if folder is None:
        missing.append("torch >= 2.10 (python -m pip install torch, then install with --no-build-isolation)")
    elif tuple(map(int, re.findall(r"\d+", version)[:2])) < TORCH_AT_LEAST:
        missing.append(f"torch >= 2.10 (this is {version})")
    return missing


def switch(name: str) -> str:
    value = os.environ.get(name, "auto") or "auto"
    if value not in ("auto", "0", "1"):
        raise SystemExit(f"{name}={value}: must be auto, 0 or 1")
    return value


def plan() -> tuple[bool, bool, list[str]]:
    """(build the CPU library?, the CUDA library?, notes for the user). Exits if a library asked for cannot be built."""
    cpu, cuda = switch("CONVNEXTV2_FAST_CPU"), switch("CONVNEXTV2_FAST_CUDA")
    missing = missing_tools()
    no_nvcc = [] if find_nvcc() else ["nvcc (the CUDA toolkit; set CUDA_HOME if it is not on PATH)"]
    for name, value, lacks in (("CPU", cpu, missing), ("CUDA", cuda, missing + no_nvcc)):
        if value == "1" and lacks:
            raise SystemExit(f"CONVNEXTV2_FAST_{name}=1, but the build needs: {'; '.join(lacks)}")
    build_cpu = cpu != "0" and not missing
    build_cuda = cuda != "0" and not missing and not no_nvcc
    notes = []
    if missing and (cpu != "0" or cuda != "0"):
        notes.append(f"pure Python installation, without native kernels. For those, install: {'; '.join(missing)}")
    elif no_nvcc and cuda != "0":
        notes.append("no nvcc found: building the CPU library only")
    return build_cpu, build_cuda, notes


def remove_libraries(folder: Path, keep: list[str]) -> None:
    """Removes what an earlier build with other settings left, which would otherwise be installed or loaded."""
    for name in ("_C_cpu.so", "_C_cuda.so", "_build_info.json"):
        if name not in keep:
            (folder / name).unlink(missing_ok=True)


class CMakeBuild(build_ext):
    """Runs CMake once and puts the libraries, with a record of how they were built, into the package."""

    def run(self) -> None:
        outputs = self._outputs()
        target = SOURCE if self.inplace or self.editable_mode else Path(self.build_lib).resolve() / PACKAGE
        # Not self.build_temp, which is new for each editable build: here only what changed is compiled again.
        build = ROOT / "build" / "cmake"
        target.mkdir(parents=True, exist_ok=True)
        build.mkdir(parents=True, exist_ok=True)
        torch_folder, torch_version = find_torch()
        cmake, ninja, nvcc = find_tool("cmake"), find_tool("ninja"), find_nvcc()
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        configure = [
            cmake,
            f"-S{ROOT}",
            f"-B{build}",
            f"-DCMAKE_INSTALL_PREFIX={target}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if os.environ.get('DEBUG') == '1' else 'Release'}",
            f"-DTORCH_ROOT={torch_folder}",
            f"-DCNV2_CPU={'ON' if '_C_cpu.so' in outputs else 'OFF'}",
            f"-DCNV2_CUDA={'ON' if '_C_cuda.so' in outputs else 'OFF'}",
            f"-DTORCH_CUDA_ARCH_LIST={os.environ.get('TORCH_CUDA_ARCH_LIST', '')}",
            f"-DCNV2_NVCC_THREADS={os.environ.get('NVCC_THREADS', '2')}",
        ]
        if ninja:
            configure += ["-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        if "_C_cuda.so" in outputs:
            configure.append(f"-DCMAKE_CUDA_COMPILER={nvcc}")
        if (build / "CMakeCache.txt").exists() and not self._cache_is_ours(build, ninja):
            shutil.rmtree(build)
            build.mkdir()
        remove_libraries(target, keep=outputs)
        for command in (configure, [cmake, "--build", str(build), "--parallel", jobs, "--target", "install"]):
            subprocess.run(command, check=True)
        info = {
            "version": self.distribution.get_version(),
            "torch": torch_version,
            **json.loads((build / "build_info.json").read_text()),
        }
        (target / "_build_info.json").write_text(json.dumps(info, indent=2) + "\n")

    @staticmethod
    def _cache_is_ours(build: Path, ninja: str | None) -> bool:
        """CMake refuses a build folder that another source folder or generator has used."""
        cache = (build / "CMakeCache.txt").read_text()
        generator = "Ninja" if ninja else "Unix Makefiles"
        home = re.search(r"^CMAKE_HOME_DIRECTORY:INTERNAL=(.*)$", cache, re.MULTILINE)
        return f"CMAKE_GENERATOR:INTERNAL={generator}\n" in cache and home is not None and home[1] == str(ROOT)

    def _outputs(self) -> list[str]:
        return [f"{extension.name.rpartition('.')[2]}.so" for extension in self.extensions]

    def _files(self) -> list[str]:
        return [*self._outputs(), "_build_info.json"]

    def get_outputs(self) -> list[str]:
        return [str(Path(self.build_lib) / PACKAGE / name) for name in self._files()]

    def get_output_mapping(self) -> dict[str, str]:
        return {str(Path(self.build_lib) / PACKAGE / name): str(SOURCE / name) for name in self._files()}


class Wheel(bdist_wheel):
    """The libraries contain no Python symbol and use torch's stable ABI: one wheel for every Python and torch."""

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, platform_tag = super().get_tag()
        return (python, abi, platform_tag) if self.root_is_pure else ("py3", "none", platform_tag)


def libraries() -> list[Extension]:
    """The libraries to build, as extensions without sources: setuptools then knows that there is something to build."""
    if not {"build", "build_ext", "bdist_wheel", "editable_wheel", "install", "develop"} & set(sys.argv):
        return []  # metadata and source distributions need no plan
    build_cpu, build_cuda, notes = plan()
    for note in notes:
        print(f"{PACKAGE}: {note}", file=sys.stderr, flush=True)
    names = ["_C_cpu"] * build_cpu + ["_C_cuda"] * build_cuda
    if not names and {"editable_wheel", "develop"} & set(sys.argv):
        remove_libraries(SOURCE, keep=[])
    return [Extension(f"{PACKAGE}.{name}", sources=[]) for name in names]


setup(version=read_version(), ext_modules=libraries(), cmdclass={"build_ext": CMakeBuild, "bdist_wheel": Wheel})
