"""Runs CMake and shows how far it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from . import finding

LIBRARIES = ("_C_cpu.so", "_C_cuda.so")
INFO = "_build_info.json"
EVERY = 5.0  # seconds between two lines of progress


def remove_libraries(folder: Path, keep: list[str]) -> None:
    """Removes what an earlier build with other settings left, which would otherwise be installed or loaded."""
    for name in (*LIBRARIES, INFO):
        if name not in keep:
            (folder / name).unlink(missing_ok=True)


def compile_libraries(
    source: Path, target: Path, outputs: list[str], torch: finding.Torch, archs: str, version: str
) -> None:
    """Builds `outputs` from the tree `source` and puts them, with a record of how they were built, into `target`.

    Raises:
        SystemExit: CMake or a compiler failed; its messages stand above.
    """
    target.mkdir(parents=True, exist_ok=True)
    cuda = "_C_cuda.so" in outputs
    remove_libraries(target, keep=outputs)
    build = _configure(
        source,
        f"-DCMAKE_INSTALL_PREFIX={target}",
        f"-DTORCH_ROOT={torch.folder}",
        f"-DCNV2_CPU={'ON' if '_C_cpu.so' in outputs else 'OFF'}",
        f"-DCNV2_CUDA={'ON' if cuda else 'OFF'}",
        f"-DTORCH_CUDA_ARCH_LIST={archs}",
        f"-DCNV2_NVCC_THREADS={os.environ.get('NVCC_THREADS', '2')}",
        *([f"-DCMAKE_CUDA_COMPILER={finding.nvcc()}"] if cuda else []),
    )
    _build(build, "install")
    built = json.loads((build / "build_info.json").read_text())
    info = {"version": version, "torch": torch.version, **built}
    (target / INFO).write_text(json.dumps(info, indent=2) + "\n")


def compile_kernels(source: Path) -> None:
    """Compiles the CPU kernels of the tree `source`, which need no torch, for a build that follows.

    Raises:
        SystemExit: CMake or a compiler failed; its messages stand above.
    """
    _build(_configure(source, "-DCNV2_CPU=ON", "-DCNV2_CUDA=OFF", "-DTORCH_ROOT="), "cpu_kernels")


def _configure(source: Path, *options: str) -> Path:
    """One folder for all builds from this tree: only what changed is compiled again."""
    build = source / "build" / "cmake"
    build.mkdir(parents=True, exist_ok=True)
    ninja = finding.tool("ninja")
    kind = "Debug" if os.environ.get("DEBUG") == "1" else "Release"
    configure = [str(finding.tool("cmake")), f"-S{source}", f"-B{build}", f"-DCMAKE_BUILD_TYPE={kind}", *options]
    if ninja:
        configure += ["-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    if (build / "CMakeCache.txt").exists() and not _cache_is_ours(build, source, ninja):
        shutil.rmtree(build)
        build.mkdir()
    _run(configure, quiet=True)
    return build


def _build(folder: Path, what: str) -> None:
    jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    _run([str(finding.tool("cmake")), "--build", str(folder), "--parallel", jobs, "--target", what])


def _cache_is_ours(build: Path, source: Path, ninja: str | None) -> bool:
    """CMake refuses a build folder that another source folder or generator has used."""
    cache = (build / "CMakeCache.txt").read_text()
    generator = "Ninja" if ninja else "Unix Makefiles"
    home = re.search(r"^CMAKE_HOME_DIRECTORY:INTERNAL=(.*)$", cache, re.MULTILINE)
    return f"CMAKE_GENERATOR:INTERNAL={generator}\n" in cache and home is not None and home[1] == str(source)


def _run(command: list[str], quiet: bool = False) -> None:
    """Prints what the command says, but of its progress only a line now and then. `quiet`: only if it fails."""
    began = shown = time.monotonic()
    held: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1) as process:
        for line in process.stdout or ():
            step = re.match(r"\[\s*(\d+)(?:/(\d+)|%)\]", line)
            if quiet:
                held.append(line)
            elif step is None:
                if not line.startswith(("-- Install", "-- Up-to-date", "-- Set ")):
                    print(line, end="", file=sys.stderr, flush=True)
            elif time.monotonic() - shown >= EVERY:
                shown = time.monotonic()
                done = f"{step[1]} of {step[2]} steps" if step[2] else f"{step[1]} %"
                print(f"  compiling: {done}, {shown - began:.0f} s", file=sys.stderr, flush=True)
    if process.returncode != 0:
        print("".join(held), end="", file=sys.stderr, flush=True)
        raise SystemExit(f"convnextv2_fast: this command failed, see its messages above: {finding.written(command)}")
