"""The host's part of a step: what Python, PyTorch's dispatcher and autograd take before the kernels can start.

    host = slowdown x (blocks x microseconds of a block + launches elsewhere x ELSEWHERE + all launches x LAUNCH)
    step = max(kernels, host)

The host runs ahead of the GPU and never waits for it, so the slower of the two decides. The microseconds are those of
one machine, whose yardstick is a bare autograd.Function, forward and backward; `slowdown` is how much longer that takes
on the host of a GPU. Nothing here has been measured on the host of a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import models
from .kernel import Total, total
from .passes import Pass

WAYS = ("eager", "compiled", "graphed")

# Microseconds of a block with 8 channels on one site, by `python -m tests.static_figures --only host`: CPU time,
# without launches. "composed" and "ours" on one machine, one after the other, where BARE was 29.0 and 28.9. Inference
# has bfloat16 parameters, training steps float32 ones under autocast.
BARE = 29.0
INFERENCE = {"composed": 195.8, "ours": 25.4}
TRAINING = {"composed": 681.6, "ours": 199.1}  # forward and backward, with the gradients of eleven tensors
# The operators called directly, as compiled code does, without modules, autograd and checks in Python; on the same
# machine, in the same way.
OPERATOR_FORWARD, OPERATOR_FORWARD_TRAIN, OPERATOR_BACKWARD = 11.8, 13.2, 22.4

# Assumed, for the machine of BARE. ELSEWHERE: what a launch outside the blocks costs before it is launched, which is
# what it costs on average in the composed block. CALL: the same in compiled code, of operators that launch one kernel;
# a direct call of one of PyTorch's takes 2.2. LAUNCH: the driver's part. ENTRY: guards and arguments of a compiled
# function, in each direction. REPLAY: the launch of a graph.
ELSEWHERE, CALL, LAUNCH, ENTRY, REPLAY = 18.0, 4.0, 3.0, 100.0, 10.0

# Of the host that belongs to the H100 of the committed results, a round figure. Its training and FCMAE steps, which
# were launched kernel by kernel, fit 1.8 to 3.3; a block alone, forward and backward, fits 3.5.
SLOWDOWN = 3.0


@dataclass(frozen=True)
class Launches:
    """Of a step: of all kernels, and of those outside the blocks."""

    blocks: int
    all: int
    elsewhere: int


def launches(this: Pass) -> Launches:
    """Counted from the model of its kernels. FCMAE's decoder has a block, too."""
    in_blocks: list[Total] = []
    for step in this.steps():
        if step.op in ("dwconv_layer_norm", "mlp_grn"):
            in_blocks.append(total([step], this.chip))
    blocks = sum(models.dimensions(this.size)[0]) + (this.mode == "fcmae")
    everything = this.total().launches
    return Launches(blocks, everything, everything - sum(found.launches for found in in_blocks))


def seconds(this: Pass, way: str, slowdown: float = SLOWDOWN) -> float:
    """The host's time for a step.

    Raises:
        ValueError: the way is unknown, or the pass is not ours.
    """
    if way not in WAYS:
        raise ValueError(f"unknown way {way!r}: choose one of {', '.join(WAYS)}")
    if this.provider not in INFERENCE:
        raise ValueError(f"the host's time is counted for {', '.join(INFERENCE)}, not for {this.provider}")
    if way == "graphed":
        return slowdown * REPLAY * 1e-6
    count, trains = launches(this), this.mode != "forward"
    launching = count.all * LAUNCH
    if way == "eager":
        of_block = (TRAINING if trains else INFERENCE)[this.provider]
        return slowdown * (count.blocks * of_block + count.elsewhere * ELSEWHERE + launching) * 1e-6
    entries = (2 if trains else 1) * ENTRY
    if this.provider == "composed":  # a call for each launch
        return slowdown * (entries + count.all * CALL + launching) * 1e-6
    of_block = OPERATOR_FORWARD_TRAIN + OPERATOR_BACKWARD if trains else OPERATOR_FORWARD
    return slowdown * (entries + count.blocks * of_block + count.elsewhere * CALL + launching) * 1e-6


@dataclass(frozen=True)
class Step:
    """Milliseconds of a pass, run in one of WAYS."""

    this: Pass
    way: str
    kernels_ms: float
    host_ms: float

    @property
    def ms(self) -> float:
        """The longer of the two."""
        return max(self.kernels_ms, self.host_ms)


def step(this: Pass, way: str, slowdown: float = SLOWDOWN) -> Step:
    return Step(this, way, 1e3 * this.total().seconds, 1e3 * seconds(this, way, slowdown))
