"""Matrices read by the copy engine of Hopper and later (TMA): tensor descriptors in place of pointers."""

from __future__ import annotations

from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from .chip import Chip


def possible(chip: Chip, *matrices: Tensor) -> bool:
    """Whether the copy engine can read these contiguous matrices: halves, none empty, rows of whole 16 bytes."""
    return chip.tma and all(
        m.itemsize == 2 and m.numel() > 0 and m.shape[1] % 8 == 0 and m.data_ptr() % 16 == 0 for m in matrices
    )


def tiles_of(matrix: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """A descriptor of tiles `[rows, columns]`, both powers of two up to 256; what lies outside reads as zero."""
    return TensorDescriptor(matrix, list(matrix.shape), [matrix.shape[1], 1], [rows, columns])
