"""The depthwise 7x7 convolution's kernels: how a launch is cut into blocks decides the time, so that is counted here.

On dense planes in 16-bit types two kernels run on the tensor cores, and both wait for loads rather than for bandwidth:
a block goes from row to row, and the rows of a step were asked for one step before. Their time is a sum of steps.
Everywhere else, and on FCMAE's sparse planes always, multiply-adds run on the ordinary units.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from .chips import Chip
from .kernel import Kernel

TAPS = 49
FLOAT = 4  # bytes of partial sums

# Of csrc/cuda/dwconv/mma_slots.cuh and the two kernels: a slot is 7 x 8 outputs of 16 channels, a block of the
# convolution takes 16 slots at a time, of the taps' gradient 2; 2 blocks a processor. Seven outputs read 13 rows.
ROWS, COLUMNS, CHANNELS, RESIDENT, STEPS = 7, 8, 16, 2, 13
CONVOLUTION_SLOTS, TAPS_SLOTS = 16, 2

# Least squares of relative errors. Convolution: dwconv7x7 forward and dgrad at stages 1 and 2, batch 128, and
# dwconv_layer_norm less its other kernels at all four stages, batch 64: eight figures, 6 % off at most. The rows of
# forward, dgrad and wgrad at stages 3 and 4 are left out: the two parts of a backward pass, timed one by one, take
# longer than the whole, so there is host time in them.
STEP_SECONDS, CONVOLUTION_SECONDS = 0.58e-6, 11.2e-6
# The taps' gradient: wgrad at stages 1 and 2, backward less the convolution at all four: six figures, 10 % off at most.
GROUP_SECONDS, TAPS_SECONDS = 1.42e-6, 4.9e-6
# The ordinary units. Instructions issued for a multiply-add, were all issue slots used (the code has 1.24), and seconds
# of a call: forward, dgrad and backward of dense planes, eleven figures, 8 % off at most. Sparse planes: sparse_dwconv
# at stages 1 and 3, 8 % off.
ISSUED_PER_TAP, SPARSE_ISSUED_PER_TAP, MULTIPLY_SECONDS = 2.44, 5.3, 11.0e-6
# Of csrc/cuda/dwconv/forward_launch.cuh and backward_kernel.cuh: strips of sparse outputs; resident blocks of backward.
STRIP_ROWS, STRIP_COLUMNS, BACKWARD_RESIDENT = 2, 4, 3


@dataclass(frozen=True)
class Plane:
    """Activations `[batch, side, side, channels]`; `visible` of its `patch` x `patch` tiles of sites are there."""

    batch: int
    side: int
    channels: int
    visible: float = 1.0
    patch: int = 0

    @property
    def rows(self) -> int:
        """Sites that are there."""
        return round(self.batch * self.side**2 * self.visible)

    @property
    def elements(self) -> int:
        return self.rows * self.channels

    @property
    def sample(self) -> str:
        """As in the names of cases."""
        return f"{self.side}x{self.side}x{self.channels}"


def rounds_and_blocks(plane: Plane, slots_at_once: int, chip: Chip) -> tuple[int, int]:
    """Groups of slots that a block takes one after the other, and the blocks that share a chunk of channels."""
    groups = ceil(plane.batch * ceil(plane.side / ROWS) * ceil(plane.side / COLUMNS) / slots_at_once)
    most = ceil(RESIDENT * chip.processors / ceil(plane.channels / CHANNELS))
    rounds = ceil(groups / most)
    return rounds, ceil(groups / rounds)


def convolution(plane: Plane, width: int, chip: Chip, what: str = "forward", addend: bool = False) -> Kernel:
    """Forward, or the input's gradient ("dgrad"), on the tensor cores; `width` bytes an element. `addend`: a tensor of
    the result's shape is added."""
    rounds, _ = rounds_and_blocks(plane, CONVOLUTION_SLOTS, chip)
    return Kernel(
        f"dwconv {what}",
        (3 if addend else 2) * plane.elements * width + TAPS * plane.channels * FLOAT,
        waiting=rounds * STEPS * STEP_SECONDS,
        fixed=CONVOLUTION_SECONDS,
        case=f"dwconv7x7-{plane.sample}-{what}",
    )


def taps_gradient(plane: Plane, width: int, chip: Chip) -> tuple[Kernel, Kernel]:
    """Of taps and bias, on the tensor cores, and the sum over its blocks."""
    rounds, blocks = rounds_and_blocks(plane, TAPS_SLOTS, chip)
    parts = blocks * (TAPS + 1) * plane.channels * FLOAT
    kernel = Kernel(
        "dwconv wgrad",
        2 * plane.elements * width + parts,
        waiting=rounds * GROUP_SECONDS,
        fixed=TAPS_SECONDS,
        case=f"dwconv7x7-{plane.sample}-wgrad",
    )
    return kernel, Kernel("wgrad's sums", parts + (TAPS + 1) * plane.channels * FLOAT)


def computed_sites(plane: Plane) -> float:
    """Sites that a sparse call computes: strips of 2 x 4 with an active one among them, for patches drawn at random."""
    if not plane.patch:
        return plane.rows
    patches = max(1, STRIP_ROWS // plane.patch) * max(1, STRIP_COLUMNS // plane.patch)
    active = 1 - (1 - plane.visible) ** patches
    strips = ceil(plane.side / STRIP_ROWS) * ceil(plane.side / STRIP_COLUMNS)
    return plane.batch * strips * STRIP_ROWS * STRIP_COLUMNS * active


def multiply_adds(plane: Plane, moved: float, passes: int, name: str) -> Kernel:
    """On the ordinary units; `passes`: 2 where the gradients of input and taps are taken together."""
    issued = SPARSE_ISSUED_PER_TAP if plane.patch else ISSUED_PER_TAP
    instructions = passes * issued * TAPS * computed_sites(plane) * plane.channels
    return Kernel(name, moved, instructions=instructions, fixed=MULTIPLY_SECONDS)


def sparse_backward(plane: Plane, width: int, chip: Chip, addend: bool = False) -> tuple[Kernel, Kernel]:
    """Both gradients in one pass, and the sum over its blocks. `addend`: as of `convolution`."""
    chunks = ceil(plane.channels / (32 if plane.channels % 32 == 0 else 16))
    parts = max(1, BACKWARD_RESIDENT * chip.processors // chunks) * (TAPS + 1) * plane.channels * FLOAT
    moved = (4 if addend else 3) * plane.elements * width + parts
    kernel = multiply_adds(plane, moved, 2, "sparse dwconv backward")
    return kernel, Kernel("its sums", parts + (TAPS + 1) * plane.channels * FLOAT)
