"""The committed results that a prediction can be held against."""

from __future__ import annotations

import functools
from pathlib import Path

from ..reports import tidy
from ..reports.naming import OURS
from ..reports.tidy import Row
from .chips import Chip

PARTS = {"forward": "inference", "training": "training", "fcmae": "pretraining"}
# How the CUDA backend's kernels run in results of whole passes: launched one by one, or as a graph. Where the mode has
# another word (`triton`, `torch`, `preferred`, `compile`), other kernels run.
OUR_MODES = ("cuda", "cuda graph", "eager", "graph")
# Commits of results that were taken when a block still was two ops, each of a dozen calls.
COMPOSED = ("7e9d51227315be899e68f3aabc279cf0472cbdd8", "a5f7155f68509806a39f87d31a388fe1e2e943fd")


@functools.cache
def rows(directory: Path = tidy.RESULTS) -> tuple[Row, ...]:
    """The rows of all files, of one key and machine the newest alone."""
    found: dict[tuple[str, ...], Row] = {}
    for path in tidy.files(directory):
        found |= {(row.machine, *row.key): row for row in tidy.read(path) if row.ms is not None}
    return tuple(found.values())


def on(chip: Chip, *parts: str) -> list[Row]:
    """The rows of a chip."""
    return [row for row in rows() if chip.machine in row.machine and row.part in parts]


def has_host(row: Row) -> bool:
    """Whether the kernels were launched one by one: then the time is the host's where that is slower."""
    return "graph" not in row.mode


def case_of(mode: str, size: str, resolution: int) -> str:
    """A whole pass, as results call it."""
    if mode == "fcmae":
        return f"fcmae_{size}-{resolution}px-grn_batch-forward_backward"
    return f"convnextv2_{size}-{resolution}px-forward{'' if mode == 'forward' else '_backward'}"


def is_from(row: Row, provider: str) -> bool:
    """Whether a row of a whole pass is of our CUDA kernels ("ours", or "composed" while a block was two ops), or of
    torch.compile's default mode ("compile")."""
    how = row.mode.partition(",")[0]
    if provider == "compile":
        return row.provider != OURS and how == "compile"
    return row.provider == OURS and how in OUR_MODES and (row.commit in COMPOSED) == (provider == "composed")


def passes(chip: Chip, mode: str, size: str, batch: int, resolution: int, dtype: str, provider: str) -> list[Row]:
    """All measurements of this pass; several where several processes made one."""
    wanted = (case_of(mode, size, resolution), batch, dtype)
    return [
        row for row in on(chip, PARTS[mode]) if (row.case, row.batch, row.dtype) == wanted and is_from(row, provider)
    ]


def op(chip: Chip, case: str, batch: int) -> Row | None:
    """An op of the CUDA backend in bfloat16, the dense convolution on the tensor cores: at this batch or, without such
    a row, at another; replayed as a graph or, the convolution alone, launched one by one."""
    modes = ("cuda graph", "cuda-mma graph", "cuda-mma")
    found = [
        row
        for row in on(chip, "ops")
        if row.case == case and row.provider == OURS and row.mode in modes and row.dtype == "bfloat16"
    ]
    return min(found, key=lambda row: (row.batch != batch, has_host(row)), default=None)
