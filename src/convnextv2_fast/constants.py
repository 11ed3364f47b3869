"""Numbers that stay constants in a graph."""

from __future__ import annotations

import torch


def constant(number: float) -> float:
    """`number`, for which torch.compile makes a guard rather than an input of the graph.

    With `dynamic=True` it takes the attributes of modules for inputs, which two autograd functions cannot share and
    CUDA graphs cannot read."""
    if not torch.compiler.is_compiling():
        return number
    from torch.fx.experimental.symbolic_shapes import guard_scalar  # importing it takes a moment

    found: float = guard_scalar(number)
    return found
