"""`env`: versions, machine, native libraries, backends. Made to be pasted: no host name, no absolute paths."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

from .. import __version__, dispatch, environment, library
from .text import without_paths

# Names under which a package is distributed, the usual one first. Nothing of these is imported.
_PACKAGES = {
    "triton": ("triton", "pytorch-triton", "pytorch-triton-rocm", "pytorch-triton-xpu", "triton-windows"),
    "timm": ("timm",),
    "transformers": ("transformers",),
    "numpy": ("numpy",),
    "rich": ("rich",),
    "matplotlib": ("matplotlib",),
}
_CPU_FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve")


def add_parser(commands: Any) -> None:
    """Adds the command to argparse's subparsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "env",
        help="versions, machine, native libraries, and each backend with the reason why it cannot run",
        description="Prints what a bug report needs: versions, machine, native libraries, backends, environment "
        "variables. No host name, no absolute paths.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def package_version(*names: str) -> str | None:
    """Version of the first of these distributions that is installed; None if none is."""
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def versions() -> dict[str, str | None]:
    """Of this package, Python, torch and what belongs to it, and of the optional packages; None: not there."""
    cudnn = torch.backends.cudnn.version()
    return {
        "convnextv2_fast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cudnn": None if cudnn is None else str(cudnn),
        **{name: package_version(*names) for name, names in _PACKAGES.items()},
    }


def _cpuinfo(*keys: str) -> str:
    """The first of these entries in /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in keys:
            return value.strip()
    return ""


def _operating_system() -> str:
    kernel = f"{platform.system()} {platform.release()}"
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return kernel
    return f"{name}, {kernel}, {' '.join(platform.libc_ver())}"


def _driver() -> str | None:
    """Version of the NVIDIA driver; None if nvidia-smi is not there or does not say."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.split()), None)


def machine() -> dict[str, Any]:
    """Operating system, CPU and its instruction sets, threads, GPUs."""
    flags = set(_cpuinfo("flags", "Features").split())
    gpus = []
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found = torch.cuda.get_device_properties(i)
        gpus.append(
            {
                "name": found.name,
                "compute_capability": f"{found.major}.{found.minor}",
                "memory_gib": round(found.total_memory / 2**30, 1),
                "multiprocessors": found.multi_processor_count,
            }
        )
    return {
        "system": _operating_system(),
        "architecture": platform.machine(),
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cpu_flags": [flag for flag in _CPU_FLAGS if flag in flags],
        "cpu_isa_of_torch": torch.backends.cpu.get_cpu_capability(),
        "cpu_isa_of_convnextv2_fast": library.cpu_isa(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "gpu_driver": _driver() if gpus else None,
    }


def collect() -> dict[str, Any]:
    """Everything `env` prints, ready for JSON."""
    backends = {name: {"available": not reasons, "reasons": reasons} for name, reasons in dispatch.backends().items()}
    return without_paths(
        {
            "versions": versions(),
            "machine": machine(),
            "build": library.build_info(),
            "backends": backends,
            "environment": environment.found(),
        }
    )


def _sections(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What :func:`collect` found, as titled lists of names and values for people."""
    box, unknown = found["machine"], environment.unknown()
    gpus = {
        f"gpu {i}": f"{g['name']}, compute capability {g['compute_capability']}, {g['memory_gib']} GiB, "
        f"{g['multiprocessors']} multiprocessors"
        for i, g in enumerate(box["gpus"])
    }
    if gpus:
        gpus["gpu driver"] = box["gpu_driver"] or "unknown"
    return {
        "versions": {name: version or "-" for name, version in found["versions"].items()},
        "machine": {
            "system": f"{box['system']}, {box['architecture']}",
            "cpu": f"{box['cpu']}, {box['cores']} logical cores, torch uses {box['threads']} threads",
            "cpu has": " ".join(box["cpu_flags"]) or "unknown",
            "cpu code used": f"torch: {box['cpu_isa_of_torch']}; "
            f"convnextv2_fast: {box['cpu_isa_of_convnextv2_fast'] or 'no native library'}",
            **(gpus or {"gpu": "none that torch sees"}),
        },
        "native libraries": found["build"] or {"build": "none, this is a pure Python installation"},
        "backends": {
            name: "available" if state["available"] else f"not available: {'; '.join(state['reasons'])}"
            for name, state in found["backends"].items()
        },
        "environment": {
            name: f"{value}  (there is no such variable)" if name in unknown else value
            for name, value in found["environment"].items()
        }
        or {f"{environment.PREFIX}*": "none set"},
    }


def run(args: argparse.Namespace) -> int:
    """Prints; 0."""
    found = collect()
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    sections = _sections(found)
    width = max(len(name) for entries in sections.values() for name in entries)
    for title, entries in sections.items():
        print(title)
        for name, value in entries.items():
            print(f"  {name:<{width}}  {value}")
    return 0
