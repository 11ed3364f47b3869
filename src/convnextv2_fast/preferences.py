"""Which backend the automatic choice tries first on a GPU: `preferences.tsv`, by measurement or by estimate.

For each op, the backend that is tried first. For the CUDA backend's depthwise convolution of 16-bit dense planes, a row
DWCONV_KERNEL, one of its two kernels: "fma" or "mma".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from . import library
from .spec import Implementation, Spec

TABLE = Path(__file__).with_name("preferences.tsv")
ANY = "*"
DWCONV_KERNEL = "dwconv_kernel"


class Preference(NamedTuple):
    """A row: on GPUs of `family` ("sm_90"), `backend` comes first for `op` on `layout` ("dense", "patch", "site")."""

    op: str
    layout: str
    family: str
    backend: str
    source: str


def read(table: Path = TABLE) -> list[Preference]:
    """The rows of a table.

    Raises:
        ValueError: a line that is no row; the message names it.
    """
    lines = [line for line in table.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    rows = []
    for line in lines[1:]:
        cells = line.split("\t")
        if len(cells) != len(Preference._fields):
            raise ValueError(
                f"{table.name}: a row has {len(Preference._fields)} columns, this has {len(cells)}: {line}"
            )
        rows.append(Preference(*cells))
    return rows


_first = {(row.family, row.op, row.layout): row for row in read()}


def find(op: str, layout: str, family: str) -> Preference | None:
    """The row for an op with the fewest wildcards."""
    for key in ((family, op, layout), (family, op, ANY), (ANY, op, layout), (ANY, op, ANY)):
        if key in _first:
            return _first[key]
    return None


def family(device: int | None = None) -> str:
    """The family of a GPU, such as "sm_90"; ANY if there is no GPU or its family cannot be in the table.

    Args:
        device: its index; None: the current one.
    """
    if torch.version.cuda is None or not torch.cuda.is_available():
        return ANY
    major, minor = library.capability(device)
    return f"sm_{major}{minor}"


_kernels: dict[str, str] = {}


def dwconv_kernel() -> str:
    """The kernel of the depthwise convolution that is faster on the current GPU.

    Both are right on every one, so the first GPU's answer is kept; torch.compile folds the look-up instead."""
    if torch.compiler.is_compiling():
        return _dwconv_kernel(family())
    if DWCONV_KERNEL not in _kernels:
        _kernels[DWCONV_KERNEL] = _dwconv_kernel(family())
    return _kernels[DWCONV_KERNEL]


def _dwconv_kernel(family: str) -> str:
    row = find(DWCONV_KERNEL, ANY, family)
    return "mma" if row is None else row.backend


def of(spec: Spec) -> Preference | None:
    """The row for a call; None where it does not run on a GPU, or no row is for it."""
    return find(spec.op, spec.layout, family(spec.device_index)) if spec.device == "cuda" else None


def order(spec: Spec, candidates: Sequence[Implementation]) -> Sequence[Implementation]:
    """`candidates` with the preferred backend first; unchanged if there is no GPU."""
    row = of(spec)
    if row is None:
        return candidates
    first = tuple(c for c in candidates if c.backend == row.backend)
    return (*first, *(c for c in candidates if c.backend != row.backend))
