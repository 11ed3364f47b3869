"""What the choice of tiles and strategies knows of a GPU: read off the device, filled in from data sheets."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Chip:
    """Figures of a GPU.

    Attributes:
        name: of the device.
        family: "sm_80", "sm_89", "sm_90", "sm_100", "sm_120" or "gfx942": the key of the tables of configurations.
        bandwidth: bytes per second of its memory.
        flops: dense half-precision rate that matrix products reach, per second.
        vector_flops: float32 operations per second outside the matrix units (an FMA counts two).
        l2: bytes of its last-level cache.
        shared: bytes of shared memory that one block may use.
        processors: multiprocessors.
    """

    name: str
    family: str
    bandwidth: float
    flops: float
    vector_flops: float
    l2: int
    shared: int
    processors: int

    @property
    def tma(self) -> bool:
        """Whether a copy engine reads tiles of matrices (NVIDIA's TMA, from compute capability 9.0)."""
        return self.family in ("sm_90", "sm_100", "sm_120")


# Vendors' data sheets; `flops` is about 80 % of the dense rate, what large products reach.
KNOWN = {
    "sm_80": Chip("A100", "sm_80", 2.04e12, 260e12, 19.5e12, 40 << 20, 163 << 10, 108),
    "sm_89": Chip("RTX 4090", "sm_89", 1.01e12, 132e12, 82.6e12, 72 << 20, 99 << 10, 128),
    "sm_90": Chip("H100", "sm_90", 3.35e12, 800e12, 67e12, 50 << 20, 227 << 10, 132),
    "sm_100": Chip("B200", "sm_100", 8.0e12, 1800e12, 75e12, 126 << 20, 227 << 10, 148),
    "sm_120": Chip("RTX 5090", "sm_120", 1.79e12, 209e12, 105e12, 96 << 20, 99 << 10, 170),
    "gfx942": Chip("MI300X", "gfx942", 5.3e12, 900e12, 163e12, 256 << 20, 64 << 10, 304),
}
# Half-precision matrix FLOPs and float32 lanes per multiprocessor and clock, by compute capability.
_PER_CLOCK = {(8, 0): (2048, 64), (9, 0): (4096, 128), (10, 0): (8192, 128)}
_override: Chip | None = None


def family(capability: tuple[int, int]) -> str:
    """The family whose tables serve an NVIDIA GPU of this compute capability."""
    if capability in ((8, 6), (8, 9)):
        return "sm_89"  # an A100's instructions, but 99 KiB of shared memory
    major, _ = capability
    return {8: "sm_80", 9: "sm_90", 10: "sm_100"}.get(major, "sm_120" if major > 10 else "sm_80")


@functools.cache
def _read(index: int) -> Chip:
    p = torch.cuda.get_device_properties(index)
    if torch.version.hip is not None:
        return KNOWN["gfx942"]
    capability = (p.major, p.minor)
    known = KNOWN[family(capability)]
    matrix, lanes = _PER_CLOCK.get(capability, (512, 128))
    clock = getattr(p, "clock_rate", 0) * 1e3 or 1.7e9
    memory = getattr(p, "memory_clock_rate", 0) * 1e3 * 2 * getattr(p, "memory_bus_width", 0) / 8
    shared = getattr(p, "shared_memory_per_block_optin", known.shared)
    processors = p.multi_processor_count
    return Chip(
        p.name,
        known.family,
        memory or known.bandwidth,
        0.8 * matrix * processors * clock,
        2 * lanes * processors * clock,
        getattr(p, "L2_cache_size", known.l2),
        shared,
        processors,
    )


def of(device: torch.device) -> Chip:
    """The chip that kernels on `device` are configured for; the interpreter's CPU stands in as an H100."""
    if _override is not None:
        return _override
    if device.type != "cuda":
        return KNOWN["sm_90"]
    return _read(torch.cuda.current_device() if device.index is None else device.index)


@contextlib.contextmanager
def assume(chip: Chip) -> Iterator[None]:
    """Within the block, kernels are configured for `chip`. For cross-compilation and for `explain`."""
    global _override
    before, _override = _override, chip
    try:
        yield
    finally:
        _override = before
