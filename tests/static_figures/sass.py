"""What a thread executes for each element, counted in the machine code of the loops that do the work.

Instructions are those that stand in the loop: both sides of a branch, and all of a loop inside it, count once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.compile_cache import ROOT
from tests.cuda_code.compiling import Instruction, cubins, listings

from .figures import Figure
from .loops import Listing, innermost

ARCHITECTURES = ("sm_80", "sm_90")  # those that tests/cuda_code compiles
# Run on the unit for special functions, 16 results a clock and processor: also conversions, but not the packed ones
# (F2FP, I2FP), which other units do.
XU = ("MUFU", "F2F", "F2I", "FRND", "I2F")
SOURCES = "csrc/cuda"


def count(code: Listing, *kinds: str, modifier: str = "") -> int:
    """Instructions of these kinds, `LDG` for one, that have the modifier."""
    return sum(parts[0] in kinds and (not modifier or modifier in parts[1:]) for parts in map(_parts, code))


def _parts(i: Instruction) -> list[str]:
    return i.opcode.split(".")


def _is(*opcodes: str) -> Callable[[str], bool]:
    return lambda opcode: opcode.startswith(opcodes)


def constant(name: str) -> int:
    """A `constexpr int` of the depthwise kernels, `kMmaRows = 7` for one.

    Raises:
        LookupError: there is none.
    """
    for path in sorted((ROOT / SOURCES / "dwconv").glob("*.cuh")):
        for line in re.findall(r"^constexpr int (.*?);", path.read_text(), re.MULTILINE):
            if found := re.search(rf"\b{name} = (\d+)", line):
                return int(found[1])
    raise LookupError(f"no constexpr int {name} in {SOURCES}/dwconv")


def kernels(pattern: str, arch: str) -> dict[str, Listing]:
    """Of the sources whose path below csrc/cuda matches."""
    chosen = [
        cubin
        for (source, _), cubin in cubins((arch,)).items()
        if re.fullmatch(pattern, source.relative_to(ROOT / SOURCES).as_posix())
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {kernel: code for found in pool.map(listings, chosen) for kernel, code in found.items()}


# GELU. The half-precision form takes the exponential once for each element, or a tanh, and nothing else does.
_GELU = _is("MUFU.EX2", "MUFU.TANH")
_VECTORS = re.compile(r"<(BFloat16|Half), 8>$")  # 16 bytes at a time; without, a kernel takes widths that are rare


def gelu_kernels(arch: str) -> dict[str, Listing]:
    found = kernels(r"mlp_grn/.*\.cu", arch)
    return {k: code for k, code in found.items() if _VECTORS.search(k) and any(_GELU(i.opcode) for i in code)}


def gelu_loop(code: Listing) -> tuple[Listing, int]:
    """The loop, and how many elements a thread computes in a turn of it."""
    body = innermost(code, _GELU)
    return body, sum(_GELU(i.opcode) for i in body)


def _gelu(arch: str) -> Iterator[Figure]:
    for kernel, code in sorted(gelu_kernels(arch).items()):
        body, elements = gelu_loop(code)
        for unit, number in (("instructions", len(body)), ("XU operations", count(body, *XU))):
            yield Figure("code", f"{kernel}, {arch}", f"{unit} per element", number / elements, f"{SOURCES}/mlp_grn")


# Convolutions. What a thread has done by the end of a turn, in outputs, in which an instruction of a warp counts for
# its 32 lanes whether it moves their elements or multiplies matrices.
def _stored(kernel: str, body: Listing) -> float:
    """By the loop's 16-byte stores, which hold 8 elements."""
    return 8 * count(body, "STG", modifier="128")


def _staged(kernel: str, body: Listing) -> float:
    """By the constants of the source: a turn takes a group of slots; its sums leave the loop only at the end."""
    sites = constant("kTapSlots") * constant("kMmaRows") * constant("kMmaColumns")
    return sites * constant("kMmaChannels") / constant("kMmaThreads")


def _strip(kernel: str, body: Listing) -> float:
    """By the template's arguments: a strip of columns, in a forward kernel of some rows, of a pair of channels."""
    numbers = [int(n) for n in re.findall(r"\b\d+\b", kernel)]
    return numbers[1] * (numbers[2] if "forward" in kernel else 1) * 2


CONVOLUTIONS: dict[str, tuple[str, Callable[[str, Listing], float]]] = {
    # kernel: what it multiplies with, outputs of a turn
    "dwconv_forward_mma_kernel<BFloat16, false>": ("HMMA", _stored),
    "dwconv_forward_mma_kernel<BFloat16, true>": ("HMMA", _stored),  # adds the residual's gradient
    "dwconv_forward_mma_kernel<Half, false>": ("HMMA", _stored),
    "dwconv_forward_mma_kernel<Half, true>": ("HMMA", _stored),
    "dwconv_taps_mma_kernel<BFloat16>": ("HMMA", _staged),
    "dwconv_taps_mma_kernel<Half>": ("HMMA", _staged),
    "dwconv_forward_kernel<float, 16, 7, 2, false>": ("FFMA", _strip),  # dense planes
    "dwconv_forward_kernel<BFloat16, 32, 4, 2, true>": ("FFMA", _strip),  # sparse ones
    "dwconv_backward_kernel<float, 16, 7, false>": ("FFMA", _strip),
    "dwconv_backward_kernel<BFloat16, 32, 4, true>": ("FFMA", _strip),
}


def convolution_kernels(arch: str) -> dict[str, Listing]:
    return kernels(r"dwconv/(mma_\w+|(forward|backward)_(bfloat16|float32))\.cu", arch)


def _convolutions(arch: str) -> Iterator[Figure]:
    found = convolution_kernels(arch)
    for kernel, (product, outputs) in CONVOLUTIONS.items():
        if kernel not in found:
            raise LookupError(f"{kernel}: compiled no longer; say in {Path(__file__).name} what stands for it")
        body = innermost(found[kernel], _is(product))
        done = outputs(kernel, body)
        for unit, number in ((product, count(body, product)), ("instructions", len(body))):
            yield Figure("code", f"{kernel}, {arch}", f"{unit} per output", number / done, f"{SOURCES}/dwconv")


def measure() -> list[Figure]:
    return [figure for part in (_gelu, _convolutions) for arch in ARCHITECTURES for figure in part(arch)]
