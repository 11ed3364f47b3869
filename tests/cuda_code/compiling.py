"""The CUDA sources compiled by nvcc for an architecture: ptxas's report of its resources, and its instructions.

No GPU is needed. Results are kept in build/cuda_code until a source changes."""

from __future__ import annotations

import fcntl
import functools
import os
import re
import shutil
import sysconfig
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.compile_cache import ROOT, compile_once, run

NVCC = shutil.which("nvcc")
FILTER = shutil.which("c++filt")
FLAGS = ("-std=c++17", "-O3", f"-I{ROOT / 'csrc'}", "-cubin", "-Xptxas", "-v")

needs_nvcc = pytest.mark.skipif(NVCC is None or FILTER is None, reason="no nvcc or no c++filt on PATH")


@functools.cache
def nvcc_version() -> str:
    assert NVCC is not None
    found = re.search(r"release [\d.]+, V([\d.]+)", run([NVCC, "--version"]))
    assert found is not None
    return found[1]


def architectures() -> list[str]:
    """Those that cmake/arch.cmake builds for when nobody asks for others."""
    version = tuple(map(int, nvcc_version().split(".")))
    return ["sm_80", "sm_86", "sm_89", "sm_90", *(("sm_100", "sm_120") if version >= (12, 8) else ())]


@dataclass(frozen=True)
class Usage:
    registers: int
    spilled: int  # bytes that a thread stores and loads to free registers
    stack: int  # bytes of its local memory, for spills or arrays that registers cannot hold
    static_shared: int  # bytes beside the dynamic ones, which the launchers choose


def sources() -> list[Path]:
    return sorted(ROOT.glob("csrc/cuda/*/*.cu"))


def _cubin(source: Path, arch: str) -> Path:
    assert NVCC is not None
    folder = ROOT / "build" / "cuda_code" / arch
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{source.parent.name}.{source.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of other processes that run tests
        made = folder / f"{source.parent.name}.{source.name}.cubin"
        return compile_once([NVCC, f"-arch={arch}", *FLAGS, str(source)], made, nvcc_version())


@functools.cache
def cubins(archs: tuple[str, ...]) -> dict[tuple[Path, str], Path]:
    jobs = [(source, arch) for source in sources() for arch in archs]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(jobs, pool.map(lambda job: _cubin(*job), jobs), strict=True))


def short(demangled: str) -> str:
    """'void cnv2::some_kernel<cnv2::Half, 8>(int)' -> 'some_kernel<Half, 8>'"""
    text = demangled.removeprefix("void ").replace("(anonymous namespace)::", "").replace("cnv2::", "")
    text = re.sub(r"\((?:bool|int|unsigned int|long)\)", "", text)  # of constants, as some versions write them
    depth = 0
    for i, letter in enumerate(text):
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and depth == 0:
            return text[:i]
    return text


def _names(mangled: Sequence[str]) -> dict[str, str]:
    assert FILTER is not None
    if not mangled:
        return {}
    return dict(zip(mangled, map(short, run([FILTER, *mangled]).splitlines()), strict=True))


def _count(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


def usage(archs: Sequence[str]) -> dict[tuple[str, str], Usage]:
    """(kernel, architecture) to what a thread or a block of it takes."""
    found = {}
    for (_, arch), cubin in cubins(tuple(archs)).items():
        log = cubin.with_name(cubin.name + ".log").read_text()
        parts = re.split(r"Compiling entry function '(\w+)'", log)[1:]
        names = _names(parts[::2])
        for mangled, text in zip(parts[::2], parts[1::2], strict=True):
            spilled = _count(r"(\d+) bytes spill stores", text) + _count(r"(\d+) bytes spill loads", text)
            found[names[mangled], arch] = Usage(
                _count(r"Used (\d+) registers", text),
                spilled,
                _count(r"(\d+) bytes stack frame", text),
                _count(r"(\d+) bytes smem", text),
            )
    return found


def warnings(archs: Sequence[str]) -> list[str]:
    """What nvcc printed where it warned."""
    logs = {cubin: cubin.with_name(cubin.name + ".log").read_text() for cubin in cubins(tuple(archs)).values()}
    return [f"{cubin}\n{text[:2000]}" for cubin, text in logs.items() if re.search(r"\bwarning\b", text)]


def disassembler() -> str | None:
    """cuobjdump of the toolkit, or the one that Triton brings; nvdisasm must lie beside it."""
    beside = Path(NVCC).resolve().parent / "cuobjdump" if NVCC else None
    triton = Path(sysconfig.get_path("purelib")) / "triton/backends/nvidia/bin/cuobjdump"
    found = [shutil.which("cuobjdump"), *(str(path) for path in (beside, triton) if path is not None and path.exists())]
    return next((path for path in found if path is not None), None)


needs_disassembler = pytest.mark.skipif(disassembler() is None, reason="no cuobjdump")


@dataclass(frozen=True)
class Instruction:
    address: int
    guard: str  # the predicate that it runs under, '@!P0' for one; '' for none
    opcode: str  # with its modifiers, 'LDG.E.128.CONSTANT' for one
    operands: str


_INSTRUCTION = re.compile(
    r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][A-Z0-9_.]+)\s*([^;]*?)\s*;", re.MULTILINE
)


def parse(listing: str) -> tuple[Instruction, ...]:
    """What cuobjdump prints of one kernel."""
    return tuple(Instruction(int(address, 16), *rest) for address, *rest in _INSTRUCTION.findall(listing))


@functools.cache
def listings(cubin: Path) -> dict[str, tuple[Instruction, ...]]:
    """The machine code of each kernel of a cubin, in the order of its addresses."""
    tool = disassembler()
    assert tool is not None
    environment = {**os.environ, "PATH": f"{Path(tool).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    parts = re.split(r"Function : (\w+)", run([tool, "-sass", str(cubin)], environment))[1:]
    names = _names(parts[::2])
    return {names[mangled]: parse(text) for mangled, text in zip(parts[::2], parts[1::2], strict=True)}


@functools.cache
def instructions(arch: str) -> dict[str, Counter[str]]:
    """Of each kernel, how often each opcode stands in its machine code, 'LDG.E.128.CONSTANT' for one."""
    found = {}
    for cubin in cubins((arch,)).values():
        for kernel, code in listings(cubin).items():
            found[kernel] = Counter(instruction.opcode for instruction in code)
    return found
