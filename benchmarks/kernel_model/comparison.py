"""Every committed GPU result that the model can predict, beside its prediction."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..reports.naming import OURS
from ..reports.tidy import Row
from . import depthwise, measured, ops, pretraining
from .chips import CHIPS, Chip
from .depthwise import Plane
from .kernel import Kernel
from .ops import WIDTH, Setting
from .passes import COUNTS, DTYPES, PROVIDERS, Pass

_OP = re.compile(r"(\w+)-(\d+)x\d+x(\d+)(?:to(\d+)k(\d))?-(forward|dgrad|wgrad|backward)")
_PASS = re.compile(r"(convnextv2|fcmae)_(\w+?)-(\d+)px(?:-grn_batch)?-(forward|forward_backward)")
_GRID = 7  # patches along an edge of the planes of sparse_dwconv's rows


@dataclass(frozen=True)
class Compared:
    """A row and the milliseconds predicted for it."""

    row: Row
    predicted_ms: float

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        assert self.row.ms is not None
        return self.predicted_ms / self.row.ms


def sparse(batch: int, side: int, c: int) -> Plane:
    """A plane of which FCMAE's patches are there."""
    kept = int(_GRID**2 * pretraining.KEPT)
    return Plane(batch, side, c, kept / _GRID**2, side // _GRID)


def gelu(row: Row) -> ops.Gelu:
    """What GELU cost in the kernels that a row measured."""
    return ops.EARLIER if row.commit in measured.COMPOSED else ops.COUNTED


def op_kernels(row: Row, chip: Chip) -> tuple[Kernel, ...]:
    """What a row of an op ran on the CUDA backend; empty if that is not counted here."""
    match = _OP.fullmatch(row.case)
    if match is None or row.provider != OURS or row.dtype != "bfloat16" or row.batch is None:
        return ()
    op, what, batch, setting = match[1], match[6], row.batch, Setting(chip, amp=False, gelu=gelu(row))
    side, c = int(match[2]), int(match[3])
    plane = Plane(batch, side, c)
    how, _, graph = row.mode.partition(" ")
    if (op, how) == ("dwconv7x7", "cuda-mma"):
        convolution = (depthwise.convolution(plane, WIDTH, chip, what),) if what != "wgrad" else ()
        taps = depthwise.taps_gradient(plane, WIDTH, chip) if what in ("wgrad", "backward") else ()
        return (*convolution, *taps)
    if graph != "graph":
        return ()
    if (op, how) == ("dwconv_layer_norm", "cuda-fma"):
        taps = ops.dwconv_layer_norm(setting, plane).kernels[:1]
        return (*taps, depthwise.multiply_adds(plane, 2 * plane.elements * WIDTH, 1, "dwconv + layer_norm"))
    if op == "dwconv_layer_norm" and how in ("cuda", "cuda-mma"):
        return ops.dwconv_layer_norm(setting, plane).kernels
    if op == "sparse_dwconv" and how in ("cuda", "cuda-fma"):
        plane = sparse(batch, side, c)
        return (depthwise.multiply_adds(plane, 2 * plane.elements * WIDTH, 1, op),)
    if how != "cuda":
        return ()
    if op == "layer_norm":
        return (ops.norm_forward(plane.elements),)
    if op == "mlp_grn":
        return ops.mlp_grn(setting, plane.rows, batch, c).kernels
    if op == "patch_conv":
        c_out, k = int(match[4]), int(match[5])
        return ops.patch_conv(setting, batch * (side // k) ** 2, c, c_out, k).kernels
    return ()


def compare(row: Row, chip: Chip) -> Compared | None:
    """A row of an op; None if it is not counted here."""
    kernels = op_kernels(row, chip)
    return Compared(row, 1e3 * sum(kernel.seconds(chip) for kernel in kernels)) if kernels else None


def compared_ops(chip: Chip) -> list[Compared]:
    """Rows of ops, in the files' order."""
    return [found for row in measured.on(chip, "ops") if (found := compare(row, chip)) is not None]


def pass_of(row: Row, chip: Chip) -> Pass | None:
    """The pass that a row measured; None if it is not counted here."""
    match = _PASS.fullmatch(row.case)
    provider = next((name for name in PROVIDERS if measured.is_from(row, name)), None)
    if match is None or provider is None or row.batch is None:
        return None
    mode = "fcmae" if match[1] == "fcmae" else "forward" if match[4] == "forward" else "training"
    if (provider, mode) not in COUNTS or row.dtype not in DTYPES[mode]:
        return None
    return Pass(chip.name, match[2], row.batch, mode, row.dtype, provider, int(match[3]))


def compared_passes() -> list[tuple[Pass, Compared]]:
    """Rows of whole passes on all chips."""
    found = []
    for chip in CHIPS.values():
        for row in measured.on(chip, *measured.PARTS.values()):
            this = pass_of(row, chip)
            if this is not None:
                found.append((this, Compared(row, 1e3 * this.total().seconds)))
    return found
