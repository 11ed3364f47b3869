"""A CUDA toolkit of the very release asked for: the machine's own, or NVIDIA's packages in a private folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from .process import Failure, run

# The meta-package knows which versions of its parts make one toolkit (CCCL has numbers of its own). No cuBLAS and the
# like: nvcc, the static runtime, and CCCL for <nv/target>, which cuda_fp16.h includes. 220 MB, 300 MB installed.
REQUIREMENT = "cuda-toolkit[nvcc,cudart,cccl]=={release}.*"
FIRST_ON_PYPI = 13  # the packages for CUDA 12 hold ptxas and no nvcc


def release_of(nvcc: str | Path) -> str | None:
    """`13.0`, as `nvcc --version` says; None where there is none or it does not run."""
    try:
        said = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return None
    found = re.search(r"release (\d+\.\d+)", said)
    return found[1] if found else None


def candidates(release: str, environment: Mapping[str, str]) -> Iterator[Path]:
    """Folders that may hold bin/nvcc: what the user names, the usual places, what is on PATH."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if environment.get(name):
            yield Path(environment[name])
    yield Path(f"/usr/local/cuda-{release}")
    yield Path("/usr/local/cuda")
    on_path = shutil.which("nvcc", path=environment.get("PATH", os.defpath))
    if on_path:
        yield Path(on_path).parents[1]


def find(release: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The home of an installed toolkit of this release."""
    return next(
        (home for home in candidates(release, environment) if release_of(home / "bin" / "nvcc") == release), None
    )


def install(release: str, folder: Path) -> Path:
    """Installs the toolkit into `folder` unless it is there, and returns its home.

    Raises:
        Failure: there is no such package, or what pip installed is another release.
    """
    major = int(release.partition(".")[0])
    if major < FIRST_ON_PYPI:
        raise Failure(
            f"CUDA {release}: no nvcc of this release here, and PyPI has none before CUDA {FIRST_ON_PYPI}. "
            "Install the toolkit and set CUDA_HOME, or build in a container that has it"
        )
    home = folder / "nvidia" / f"cu{major}"
    if release_of(home / "bin" / "nvcc") != release:
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile")
        run(*pip, "--target", folder, REQUIREMENT.format(release=release), cwd=folder.parent)
        found = release_of(home / "bin" / "nvcc")
        if found != release:
            raise Failure(f"CUDA {release}: pip installed nvcc {found} into {home}")
        # CMake's FindCUDAToolkit takes no toolkit without it, although only libcudart_static.a is linked.
        (home / "lib" / "libcudart.so").symlink_to(f"libcudart.so.{major}")
    return home


def provide(release: str, folder: Path) -> tuple[Path, str]:
    """The home of a toolkit of this release, and where it comes from: "installed" or "PyPI"."""
    if not re.fullmatch(r"\d+\.\d+", release):
        raise Failure(f"CUDA {release}: write a release as in 13.0")
    home = find(release)
    return (home, "installed") if home else (install(release, folder / release), "PyPI")
