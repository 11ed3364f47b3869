"""Decides which native libraries are built, for which GPUs, and says why one is left out."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

from . import finding


@dataclass(frozen=True)
class Plan:
    """What to build. `archs`: CUDA architectures as torch writes them, "" for all; `notes`: sentences for the user."""

    cpu: bool
    cuda: bool
    archs: str
    notes: tuple[str, ...]


def switch(name: str) -> str:
    """One of the variables CONVNEXTV2_FAST_CPU and CONVNEXTV2_FAST_CUDA."""
    value = os.environ.get(name, "auto") or "auto"
    if value not in ("auto", "0", "1"):
        raise SystemExit(f"{name}={value}: must be auto, 0 or 1")
    return value


def missing_tools(torch: finding.Torch | None) -> list[str]:
    """What the native build lacks, each with how to get it."""
    missing = []
    if platform.system() != "Linux":
        missing.append("Linux (the native build is made and tested for it alone)")
    if finding.compiler() is None:
        missing.append("a C++17 compiler (apt-get install g++)")
    if finding.tool("cmake") is None:
        missing.append("cmake >= 3.21 (python -m pip install cmake ninja)")
    if torch is None:
        missing.append(
            "torch >= 2.10 in the environment that this is installed into (python -m pip install torch, first); "
            f"if it is there and was not found, set {finding.TORCH_VARIABLE}=.../site-packages/torch"
        )
    elif not torch.new_enough:
        missing.append(f"torch >= 2.10 (this is {torch.version})")
    return missing


def architectures() -> tuple[str, str]:
    """CUDA architectures as torch writes them ("" for all), and where they come from."""
    asked = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip()
    if asked.lower() == "all":
        return "", "all architectures, as TORCH_CUDA_ARCH_LIST says"
    if asked:
        return asked, f"architectures {asked}, as TORCH_CUDA_ARCH_LIST says"
    here = finding.gpus()
    if here:
        return ";".join(here), f"compute capability {', '.join(here)}: the GPUs of this machine"
    return "", "all architectures, because no GPU was found here (TORCH_CUDA_ARCH_LIST=9.0 would build for one)"


def make(torch: finding.Torch | None) -> Plan:
    """The plan for this machine, this torch and the environment variables.

    Raises:
        SystemExit: a library was asked for and cannot be built.
    """
    cpu, cuda = switch("CONVNEXTV2_FAST_CPU"), switch("CONVNEXTV2_FAST_CUDA")
    missing = missing_tools(torch)
    no_nvcc = [] if finding.nvcc() else ["nvcc (the CUDA toolkit; set CUDA_HOME if it is not on PATH)"]
    for name, value, lacks in (("CPU", cpu, missing), ("CUDA", cuda, missing + no_nvcc)):
        if value == "1" and lacks:
            raise SystemExit(f"CONVNEXTV2_FAST_{name}=1, but the build needs: {'; '.join(lacks)}")
    if missing:
        wanted = cpu != "0" or cuda != "0"
        note = f"NO NATIVE KERNELS: they need {'; '.join(missing)}. Install that, then install convnextv2_fast again"
        return Plan(False, False, "", (note,) * wanted)
    notes = []
    cuda_torch = torch is not None and bool(torch.cuda)
    if cuda == "auto" and cuda_torch and no_nvcc:
        notes.append("no nvcc found: on a GPU the Triton kernels will run, without the CUDA library")
    build_cuda = cuda == "1" or (cuda == "auto" and cuda_torch and not no_nvcc)
    archs, why = architectures() if build_cuda else ("", "")
    names = [*["CPU"] * (cpu != "0"), *["CUDA"] * build_cuda]
    if names:
        notes.append(f"compiling the {' and the '.join(names)} library against torch {torch.version}")  # type: ignore[union-attr]
    if build_cuda:
        notes.append(f"CUDA code for {why}")
    return Plan(cpu != "0", build_cuda, archs, tuple(notes))
