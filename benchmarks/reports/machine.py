"""What the numbers were made on. No host names, no user names, no paths."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

from . import tidy

ROOT = Path(__file__).resolve().parents[2]


def output(*command: str) -> str:
    """Standard output of a command run in the repository root; empty if it cannot run."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def version(package: str) -> str | None:
    """Installed version of a package; None if absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> dict[str, str | bool | None]:
    """Commit of the tree and whether it has uncommitted changes; None where there is no git."""
    identity = output("git", "rev-parse", "HEAD")
    if not identity:
        return {"commit": None, "dirty": None}
    return {"commit": identity, "dirty": bool(output("git", "status", "--porcelain", "--untracked-files=no"))}


def cpu_model() -> str:
    """The CPU's name, as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def driver() -> str | None:
    """Version of the NVIDIA driver; None if unknown."""
    lines = output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()
    return lines[0].strip() if lines else None


def gpu() -> dict[str, object] | None:
    """The first CUDA device; None if there is none."""
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "memory_gib": round(found.total_memory / 2**30, 1),
        "multiprocessors": found.multi_processor_count,
        "l2_mib": round(getattr(found, "L2_cache_size", 0) / 2**20, 1),
        "driver": driver(),
    }


def library() -> dict[str, object]:
    """What the native library says of itself."""
    from convnextv2_fast import library as native

    return {
        "cpu_isa": native.cpu_isa(),
        "cpu_library": native.why_not("cpu") or "loaded",
        "cuda_library": native.why_not("cuda") or "loaded",
    }


def describe() -> dict[str, object]:
    """Everything a committed result must carry."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": version("triton"),
        "timm": version("timm"),
        "transformers": version("transformers"),
        "gpu": gpu(),
        **library(),
        **commit(),
    }


def origin(commit_named: str = "", gpu_named: str = "") -> tidy.Origin:
    """What the rows of a run on this machine begin with.

    Args:
        commit_named: where there is no git, what `git describe --always --abbrev=40 --dirty` said of this tree.
        gpu_named: the GPU that is measured; without it, the CPU is.
    """
    found = commit()
    if found["commit"] is None and commit_named:
        found = {"commit": commit_named.removesuffix("-dirty"), "dirty": commit_named.endswith("-dirty")}
    machine = gpu_named
    if not machine:
        from convnextv2_fast import library as native

        machine = f"{cpu_model()}, {native.cpu_isa()}, {torch.get_num_threads()} threads"
    identity, dirty = str(found["commit"] or ""), found["dirty"]
    return tidy.Origin(
        machine, torch.__version__, version("triton") or "", identity, None if dirty is None else bool(dirty)
    )
