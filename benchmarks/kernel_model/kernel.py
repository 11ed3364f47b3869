"""One kernel's time from what it does, and the constants that were fitted to measurements.

    longest = max(bytes, operations, instructions, each over the chip's rate)
    seconds = max(longest + OVERLAP * (all the others), waiting) + fixed + launches * LAUNCH_SECONDS

All measurements named here are committed: an H100, convnextv2_tiny, bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from .chips import Chip

# The part of the shorter limits that does not hide behind the longest, and the share of the copy bandwidth that a
# kernel reaches which reads and writes long rows. Fitted together, by eye and to one digit or two, to the forward pass
# at batch 128 and to mlp_grn at stages 1 and 3.
OVERLAP = 0.3
STREAM_SHARE = 0.88
# From one kernel of a CUDA graph to the next, its ramp and its tail. A usual figure, not fitted: the forward pass at
# batch 1, which is mostly this, takes 8 % longer than predicted.
LAUNCH_SECONDS = 2.0e-6
# The same share for LayerNorm's kernels, which wait for a row's sums: from the one row of layer_norm, stage 1.
NORM_SHARE = 0.76


@dataclass(frozen=True)
class Kernel:
    """One kernel, or some launches of a kind that are counted together.

    Attributes:
        moved: bytes read and written, each tensor once; caches are taken to help nobody.
        flops: operations of matrix products.
        instructions: issued by all threads, where there are enough of them to matter.
        special: results of special-function units.
        waiting: seconds that a chain of dependent loads takes at least, however fast the memory is.
        fixed: seconds before and after the bulk of the work, beyond a launch's.
        share: of the copy bandwidth.
        case: what results call this kernel, if it has been measured alone.
    """

    name: str
    moved: float
    flops: float = 0.0
    instructions: float = 0.0
    special: float = 0.0
    waiting: float = 0.0
    fixed: float = 0.0
    launches: int = 1
    share: float = STREAM_SHARE
    case: str = ""

    def arithmetic_seconds(self, chip: Chip) -> float:
        """Of issuing its instructions or of its special functions, the longer: they run beside each other."""
        return max(self.instructions / chip.instructions, self.special / chip.special)

    def seconds(self, chip: Chip) -> float:
        """Predicted time. See the head of this file."""
        parts = (self.moved / (chip.copy * self.share), self.flops / chip.gemm, self.arithmetic_seconds(chip))
        longest = max(parts)
        busy = longest + OVERLAP * (sum(parts) - longest)
        return max(busy, self.waiting) + self.fixed + self.launches * LAUNCH_SECONDS


@dataclass(frozen=True)
class Step:
    """One op's call in one direction, as often as the stage has blocks.

    Attributes:
        place: "stem", "stage 1", "head" and so on.
        direction: "forward" or "backward".
        case: what results call the op's call, if it has been measured.
    """

    place: str
    op: str
    direction: str
    kernels: tuple[Kernel, ...]
    times: int = 1
    case: str = ""

    def seconds(self, chip: Chip) -> float:
        """Predicted time of all `times` calls."""
        return self.times * sum(kernel.seconds(chip) for kernel in self.kernels)

    def at(self, place: str, times: int = 1) -> Step:
        """The same step elsewhere."""
        return replace(self, place=place, times=times)


@dataclass(frozen=True)
class Total:
    """What steps add up to; times in seconds, bytes, operations."""

    launches: int
    moved: float
    flops: float
    arithmetic_seconds: float
    seconds: float


def total(steps: Iterable[Step], chip: Chip) -> Total:
    """Sums over all kernels of all steps."""
    each = [(step.times, kernel) for step in steps for kernel in step.kernels]
    return Total(
        sum(n * kernel.launches for n, kernel in each),
        sum(n * kernel.moved for n, kernel in each),
        sum(n * kernel.flops for n, kernel in each),
        sum(n * kernel.arithmetic_seconds(chip) for n, kernel in each),
        sum(n * kernel.seconds(chip) for n, kernel in each),
    )
