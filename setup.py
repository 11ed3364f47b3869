"""Version, local tag and the native build; everything else is in pyproject.toml, all compiler flags in CMakeLists.txt.

Environment:
    CONVNEXTV2_FAST_CPU=auto|0|1            CPU library: auto builds it where a compiler and torch are found
    CONVNEXTV2_FAST_CUDA=auto|0|1           CUDA library: auto builds it where torch is a CUDA build and nvcc is found
    CONVNEXTV2_FAST_TORCH=folder            the torch package to build against, where it is not found by itself
    CONVNEXTV2_FAST_LOCAL_VERSION=cu130     appended to the version: 0.1.0+cu130
    TORCH_CUDA_ARCH_LIST                    GPUs to compile for: "9.0+PTX", "all"; by default those of this machine
    CUDA_HOME, MAX_JOBS, NVCC_THREADS, CXX, DEBUG=1
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import ClassVar

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
PACKAGE = "convnextv2_fast"
SOURCE = ROOT / "src" / PACKAGE

sys.path.insert(0, str(ROOT))  # an isolated build does not look for modules beside setup.py
from tools.native import compiling, finding, planning  # noqa: E402


def read_version() -> str:
    version = re.search(r'__version__ = "(.+)"', (SOURCE / "_version.py").read_text()).group(1)
    local = os.environ.get("CONVNEXTV2_FAST_LOCAL_VERSION", "")
    return f"{version}+{local}" if local else version


class CMakeBuild(build_ext):
    """Runs CMake once and puts the libraries, with a record of how they were built, into the package."""

    torch: ClassVar[finding.Torch | None] = None
    archs: ClassVar[str] = ""

    def run(self) -> None:
        target = SOURCE if self.inplace or self.editable_mode else Path(self.build_lib).resolve() / PACKAGE
        version = self.distribution.get_version()
        compiling.compile_libraries(ROOT, target, self._outputs(), self.torch, self.archs, version)

    def _outputs(self) -> list[str]:
        return [f"{extension.name.rpartition('.')[2]}.so" for extension in self.extensions]

    def _files(self) -> list[str]:
        return [*self._outputs(), compiling.INFO]

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
    torch = finding.torch()
    plan = planning.make(torch)
    CMakeBuild.torch, CMakeBuild.archs = torch, plan.archs
    for note in plan.notes:
        print(f"{PACKAGE}: {note}", file=sys.stderr, flush=True)
    names = ["_C_cpu"] * plan.cpu + ["_C_cuda"] * plan.cuda
    if not names and {"editable_wheel", "develop"} & set(sys.argv):
        compiling.remove_libraries(SOURCE, keep=[])
    return [Extension(f"{PACKAGE}.{name}", sources=[]) for name in names]


setup(version=read_version(), ext_modules=libraries(), cmdclass={"build_ext": CMakeBuild, "bdist_wheel": Wheel})
