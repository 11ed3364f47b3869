"""What stands around a measurement: torch's settings within a block, and an exception as one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def no_tf32() -> Iterator[None]:
    """Within the block, float32 convolutions and matrix products on a GPU keep all their bits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Within the block torch uses `number` threads on the CPU; None changes nothing.

    One thread for the references: ATen convolves float64 and bfloat16 on a CPU group by group, and on a busy machine
    handing out those scraps takes a hundred times as long as the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def first_line(error: BaseException, lines: int = 1) -> str:
    """The first line, or lines, of an exception's message that say something: those of compilers run over many."""
    return " ".join([line.strip() for line in str(error).splitlines() if line.strip()][:lines])


def one_line(error: BaseException, lines: int = 2) -> str:
    """The exception's class and the first lines of its message, short enough for a table."""
    return f"{type(error).__name__}: {first_line(error, lines)}"[:300]
