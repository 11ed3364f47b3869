"""No number without a correct result: comparison with the float64 reference, and poisoned output memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convnextv2_fast.bench.worker import WrongResult

# Largest accepted error, relative to the largest element of the reference, of one op and of a whole model.
TOLERANCE = {
    torch.float64: (1e-9, 1e-8),
    torch.float32: (5e-5, 5e-4),
    torch.float16: (1e-2, 3e-2),
    torch.bfloat16: (5e-2, 1.5e-1),
}


class CheckFailed(WrongResult):
    """A candidate's result differs from the reference: it gets no number."""


@dataclass(frozen=True)
class Difference:
    """Over all tensors compared, each relative to its own largest reference element."""

    max_relative: float
    max_absolute: float
    worst: int  # which tensor


def difference(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> Difference:
    """Compares tensor by tensor, in float64.

    Raises:
        CheckFailed: another number of tensors, another shape, or a value that is not finite.
    """
    if len(outputs) != len(expected):
        raise CheckFailed(f"{len(outputs)} tensors where the reference has {len(expected)}")
    found = Difference(0.0, 0.0, 0)
    for i, (out, ref) in enumerate(zip(outputs, expected, strict=True)):
        if out.shape != ref.shape:
            raise CheckFailed(f"tensor {i} has shape {tuple(out.shape)}, the reference {tuple(ref.shape)}")
        if not out.numel():
            continue
        ref = ref.detach().double()
        out = out.detach().to(ref.device).double()
        if not bool(torch.isfinite(out).all()):
            raise CheckFailed(f"tensor {i} holds values that are not finite")
        absolute = float((out - ref).abs().max())
        relative = absolute / max(float(ref.abs().max()), 1e-30)
        if relative >= found.max_relative:
            found = Difference(relative, max(absolute, found.max_absolute), i)
    return found


def tolerance(dtype: torch.dtype, model: bool) -> float:
    """The largest accepted relative error."""
    return TOLERANCE[dtype][int(model)]


def require(found: Difference, dtype: torch.dtype, model: bool, what: str) -> None:
    """Raises CheckFailed if the difference is above the tolerance of the dtype."""
    limit = tolerance(dtype, model)
    if not found.max_relative <= limit:
        raise CheckFailed(
            f"{what}: relative error {found.max_relative:.2e} (tensor {found.worst}) is above {limit:.0e}, "
            f"the tolerance for {str(dtype).removeprefix('torch.')}; no time is reported"
        )


@contextlib.contextmanager
def poisoned(device: str) -> Iterator[None]:
    """Within the block, memory that torch hands out uninitialised holds NaN, so an output never written shows.

    torch.empty is filled through PyTorch's own debugging switch (set beside deterministic mode, which only warns here);
    on a GPU the caching allocator's free blocks are filled too, for libraries that allocate in other ways."""
    if device == "cuda":
        spoil = [torch.full((1 << size,), float("nan"), device=device) for size in range(8, 25)]
        del spoil
    before, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn)
        torch.utils.deterministic.fill_uninitialized_memory = fill
