"""Finds the compilers, the torch that the package will run with, and the GPUs of this machine."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TORCH_AT_LEAST = (2, 10)  # the stable ABI that the libraries are built for
TORCH_VARIABLE = "CONVNEXTV2_FAST_TORCH"
_UV_ENVIRONMENTS = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "CONDA_PREFIX")


def tool(name: str, *folders: str | Path | None) -> str | None:
    """An executable, from the given folders, this Python's scripts (an environment need not be activated), or PATH."""
    places = [str(f) for f in folders if f] + [sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]
    return shutil.which(name, path=os.pathsep.join(places))


def compiler() -> str | None:
    """The C++ compiler that CMake will take."""
    if os.environ.get("CXX"):
        return tool(os.environ["CXX"].split()[0])
    return next(filter(None, map(tool, ("c++", "g++", "clang++"))), None)


def nvcc() -> str | None:
    """CUDA's compiler."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return tool("nvcc", home and Path(home) / "bin", "/usr/local/cuda/bin")


@dataclass(frozen=True)
class Torch:
    """A torch package on disk. `cuda`: the CUDA release that it was built with, such as "13.0"; "" for a CPU build."""

    folder: Path
    version: str
    cuda: str

    @property
    def new_enough(self) -> bool:
        """Whether it has the stable ABI that the libraries are built for."""
        return tuple(map(int, re.findall(r"\d+", self.version)[:2])) >= TORCH_AT_LEAST


def _read_torch(folder: Path) -> Torch | None:
    """By its files: importing it takes seconds, and is impossible in an isolated build."""
    try:
        text = (folder / "version.py").read_text()
    except OSError:
        return None
    version = re.search(r"__version__ = '([^']+)'", text)
    cuda = re.search(r"^cuda(?:: [^=]+)? = '([^']+)'", text, re.MULTILINE)
    return Torch(folder, version[1], cuda[1] if cuda else "") if version else None


def _uv_sites() -> Iterator[Path]:
    """Where uv installs to. It builds in an environment of its own and tells the build nothing about the target, so
    this follows uv's own rules, from the arguments, environment and folder of the uv process that started the build."""
    process = os.getppid()
    for _ in range(3):  # the build may have been started through a wrapper
        proc = Path("/proc") / str(process)
        try:
            words = (proc / "cmdline").read_bytes().decode(errors="replace").split("\0")
            pairs = (proc / "environ").read_bytes().decode(errors="replace").split("\0")
            folder = (proc / "cwd").resolve()
            parent = int((proc / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return
        if Path(words[0]).name in ("uv", "uvx"):
            break
        process = parent
    else:
        return
    environ = dict(pair.partition("=")[::2] for pair in pairs)
    chosen = [words[i + 1] for i, word in enumerate(words[:-1]) if word in ("--python", "-p", "--target", "--prefix")]
    chosen += [word.partition("=")[2] for word in words if re.match(r"--(python|target|prefix)=", word)]
    chosen += [environ[name] for name in ("UV_PYTHON", *_UV_ENVIRONMENTS) if environ.get(name)]
    for name in chosen:
        place = folder / name
        yield place  # --target
        yield from _sites_of(place.parent.parent if place.is_file() else place)
    for above in (folder, *folder.parents):
        yield from _sites_of(above / ".venv")
    if "--system" in words or environ.get("UV_SYSTEM_PYTHON"):
        yield from _sites_of(Path(sys.base_prefix))


def _sites_of(environment: Path) -> Iterator[Path]:
    yield from sorted(environment.glob(f"lib*/python{sys.version_info[0]}.{sys.version_info[1]}*/site-packages"))


def _sites() -> Iterator[Path]:
    """The folders in which an installed torch may lie, the likeliest first. In pip's isolated build Python's own paths
    are those of the environment that is being installed into, although nothing in it can be imported."""
    for scheme in ("purelib", "platlib"):
        yield Path(sysconfig.get_path(scheme))
    yield from map(Path, site.getsitepackages())
    yield from _uv_sites()
    if site.ENABLE_USER_SITE is not None:
        yield Path(site.getusersitepackages())
    yield from map(Path, site.getsitepackages([sys.base_prefix]))


def torch() -> Torch | None:
    """The torch to build against: the one named by CONVNEXTV2_FAST_TORCH, the one that can be imported, or that of the
    environment which is being installed into."""
    named = os.environ.get(TORCH_VARIABLE)
    if named:
        found = _read_torch(Path(named))
        if found is None:
            raise SystemExit(f"{TORCH_VARIABLE}={named}: holds no torch; name the folder .../site-packages/torch")
        return found
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.submodule_search_locations:
        return _read_torch(Path(spec.submodule_search_locations[0]))
    return next(filter(None, (_read_torch(place / "torch") for place in _sites())), None)


def gpus() -> list[str]:
    """The compute capabilities of this machine's NVIDIA GPUs, such as ["9.0"]; empty if there is none."""
    program = tool("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return sorted(set(re.findall(r"^\d+\.\d+$", done.stdout, re.MULTILINE)))


def written(command: list[str]) -> str:
    """A command as one would type it."""
    return " ".join(map(shlex.quote, command))
