"""What a chip does in a second: the ceilings that the model divides by, each with its source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """Rates of one GPU.

    Attributes:
        machine: part of the name that results call it by, see the column `machine` of `benchmarks.reports.tidy`.
        copy: bytes a second of a large copy, read and written together.
        gemm: floating-point operations a second of a large bfloat16 matrix product.
        processors: streaming multiprocessors.
        clock: hertz that instructions are taken to run at.
        sources: where the figures come from, in words.
    """

    name: str
    machine: str
    copy: float
    gemm: float
    processors: int
    clock: float
    sources: str

    @property
    def instructions(self) -> float:
        """Instructions of one thread that all processors issue in a second: 4 warps of 32 threads a clock each."""
        return self.processors * 4 * 32 * self.clock

    @property
    def special(self) -> float:
        """Results a second of the special-function units (exponentials, reciprocals, some conversions): 16 a clock."""
        return self.processors * 16 * self.clock


CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            "h100",
            "NVIDIA H100 80GB HBM3",
            copy=3.009e12,
            gemm=791.5e12,
            processors=132,
            clock=1.755e9,
            sources="copy and gemm measured (part `ceilings` of the results); processors reported by the driver; "
            "clock assumed, below the boost clock as under load",
        ),
        Chip(
            "h200",
            "NVIDIA H200",
            copy=4.31e12,
            gemm=791.5e12,
            processors=132,
            clock=1.755e9,
            sources="nothing measured: copy is the share of its 4.8 TB/s that an H100's copy reaches of its 3.35 TB/s "
            "(90 %); processors and clock, and so gemm, are the H100's, whose chip it is",
        ),
    )
}


def find(name: str) -> Chip:
    """The chip of this name.

    Raises:
        ValueError: an unknown one.
    """
    if name not in CHIPS:
        raise ValueError(f"unknown chip {name!r}: choose one of {', '.join(CHIPS)}")
    return CHIPS[name]
