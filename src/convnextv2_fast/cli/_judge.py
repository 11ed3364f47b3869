"""What a line of `check` is, and how a result becomes `ok` or `FAIL`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..testing import relative_error, tolerance

Results = dict[str, Tensor]


def _cells(*cells: str) -> str:
    return "".join(f"{cell:<{width}}" for cell, width in zip(cells, (8, 18, 8, 7, 7, 17), strict=True))


HEAD = _cells("result", "op or model", "backend", "device", "layout", "dtype")


@dataclass
class Line:
    """One line of the report: of all results it stands for, the one farthest above, or closest below, its tolerance."""

    status: str  # "ok", "FAIL" or "skipped"
    what: str  # an op, or a whole model
    backend: str
    device: str = ""
    layout: str = ""
    dtype: str = ""
    error: float | None = None  # None where there is none, or it is not finite
    tolerance: float | None = None
    note: str = ""  # which result that was; or why it was skipped or could not run

    def __str__(self) -> str:
        head = _cells(self.status, self.what, self.backend, self.device, self.layout, self.dtype)
        if self.status == "skipped":
            return f"{head.rstrip()}: {self.note}"
        if self.error is None:
            return f"{head}{self.note}"
        return f"{head}error {self.error:.1e}, allowed {self.tolerance:.1e} ({self.note})"

    def fail(self, note: str) -> Line:
        """Makes this a failure that has no error to show."""
        self.status, self.error, self.tolerance, self.note = "FAIL", None, None, note
        return self

    def add(self, error: float, allowed: float, note: str) -> None:
        """Takes in one more result."""
        if not math.isfinite(error):
            self.fail(f"{note}: not finite")
        elif self.status == "ok" or self.error is not None:
            if error > allowed:
                self.status = "FAIL"
            if self.error is None or error / allowed > self.error / (self.tolerance or allowed):
                self.error, self.tolerance, self.note = error, allowed, note


FEW = 8  # elements


def judge(
    line: Line,
    got: Mapping[str, Tensor],
    plain: Mapping[str, Tensor],
    exact: Mapping[str, Tensor],
    dtype: torch.dtype,
    measure: Callable[[Tensor, Tensor], float] = relative_error,
) -> None:
    """Adds every result in `got` to the line, by the rule of :func:`convnextv2_fast.testing.tolerance`."""
    for name, value in got.items():
        if value.shape != exact[name].shape:
            line.fail(f"{name}: shape {tuple(value.shape)}, the reference's is {tuple(exact[name].shape)}")
            return
        error = measure(plain[name], exact[name])
        if value.numel() < FEW:  # sums over all rows, whose terms cancel: torch's own error is one draw of luck
            error = max(error, 16 * torch.finfo(dtype).eps)
        line.add(measure(value, exact[name]), tolerance(error, dtype), name)


def first_line(error: BaseException) -> str:
    """Of its message; errors of compilers and of CUDA run over many."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


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
