"""The cost model that picks mlp_grn's strategy on a GPU: bytes over bandwidth plus operations over rate."""

from __future__ import annotations

import torch

from ...errors import UnsupportedInputError
from .._triton.chip import Chip
from .triton_tiles import WIDEST_FUSED, tiles

# Elements of activations moved per row and channel with K = 4C: u, residual and result, and the hidden tensor.
UNITS = {"materialize": 11.0, "recompute": 4.0, "chunked": 3.0}
FLOPS = {"materialize": 16.0, "recompute": 24.0, "chunked": 16.0}  # times T C^2
GELUS = {"materialize": 1, "recompute": 2, "chunked": 1}  # evaluations per hidden element
GELU_FLOPS = 28.0
LAUNCH = 5e-6  # seconds a launch, where the queue runs dry
KERNELS = 4
L2_OVER_MEMORY = 2.5  # rate of the last-level cache over that of the memory


def seconds(
    chip: Chip, rows: int, c: int, dtype: torch.dtype, rows_per_group: int, c_out: int | None = None
) -> dict[str, float]:
    """Predicted time of each strategy on `rows` rows of width c; those that cannot run are left out.

    Args:
        rows_per_group: 0 where groups differ in size.
    """
    size = dtype.itemsize
    rate = chip.vector_flops * 0.6 if dtype == torch.float32 else chip.flops
    chunks = 1
    if rows_per_group:
        chunks = max(1, -(-rows * 4 * c * size // max(chip.l2 // 3, 1)))
        chunks = min(chunks, max(1, rows // rows_per_group))
    found = {}
    for name, units in UNITS.items():
        one_group_is_too_much = rows_per_group * 4 * c * size > chip.l2 // 3
        if name == "recompute" and (c > WIDEST_FUSED or c_out not in (None, c)):
            continue
        if name == "chunked" and (not rows_per_group or one_group_is_too_much):
            continue
        moved = units * rows * c * size / chip.bandwidth
        product = FLOPS[name] * rows * c * c / rate
        activation = GELUS[name] * GELU_FLOPS * rows * 4 * c / chip.vector_flops
        if name == "recompute":  # every row tile reads both weights, from the last-level cache
            moved += rows / tiles("fused", chip, c, dtype).rows * 8 * c * c * size / (L2_OVER_MEMORY * chip.bandwidth)
        launches = LAUNCH * KERNELS * (chunks if name == "chunked" else 1)
        found[name] = moved + product + activation + launches
    return found


def choose(chip: Chip, rows: int, c: int, dtype: torch.dtype, rows_per_group: int, c_out: int | None = None) -> str:
    """The strategy of least predicted time."""
    times = seconds(chip, rows, c, dtype, rows_per_group, c_out)
    return min(times, key=times.__getitem__)


def check(strategy: str, c: int, c_out: int, rows_per_group: int) -> None:
    """Whether the kernels have a strategy that was asked for.

    Raises:
        UnsupportedInputError: it cannot run this call.
    """
    if strategy == "recompute" and (c > WIDEST_FUSED or c != c_out):
        raise UnsupportedInputError(
            f"mlp_grn: strategy 'recompute' takes C = C' up to {WIDEST_FUSED}, got {c} and {c_out}; use 'materialize'"
        )
    if strategy == "chunked" and not rows_per_group:
        raise UnsupportedInputError("mlp_grn: strategy 'chunked' takes groups of equal size; use 'materialize'")


def save_hidden(chip: Chip, c: int, dtype: torch.dtype) -> bool:
    """Whether backward stores h and dg between its two passes (16 units of traffic) or computes them again
    (16 T C^2 operations)."""
    rate = chip.vector_flops * 0.6 if dtype == torch.float32 else chip.flops
    return 16 * c / rate > 16 * dtype.itemsize / chip.bandwidth


def describe(chip: Chip, c: int, dtype: torch.dtype) -> list[str]:
    """Lines for `explain`: the predictions at a 224-pixel batch's usual size."""
    rows, group = 128 * 196, 196
    times = seconds(chip, rows, c, dtype, group)
    best = choose(chip, rows, c, dtype, group)
    table = ", ".join(f"{name} {1e6 * value:.0f} us" for name, value in times.items())
    return [
        f"{chip.name}: {chip.bandwidth / 1e12:.2f} TB/s, {chip.flops / 1e12:.0f} TFLOP/s, L2 {chip.l2 >> 20} MiB",
        f"strategies at {rows} rows in groups of {group}: {table}; {best} is chosen",
    ]
