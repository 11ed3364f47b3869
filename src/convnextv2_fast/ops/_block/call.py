"""A call of the block as its implementations take it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...layouts import Layout


class BlockWeights(NamedTuple):
    """The parameters of a block, in x's dtype or float32."""

    kernel: Tensor  # [C, 1, 7, 7] or [49, C]
    bias: Tensor | None  # [C]
    ln_weight: Tensor  # [C]
    ln_bias: Tensor  # [C]
    w1: Tensor  # [K, C]
    b1: Tensor  # [K]
    gamma: Tensor | None  # K elements; None together with beta: no GRN
    beta: Tensor | None
    w2: Tensor  # [C, K]
    b2: Tensor  # [C]
    layer_scale: Tensor | None  # C elements


RowScale = Callable[[Tensor], Tensor | None]  # what the MLP reads to drop path's factors `[R]`


class BlockCall(NamedTuple):
    """The arguments of :func:`convnextv2_fast.ops.block`."""

    x: Tensor  # [N, H, W, C], any strides, or [T, C]
    weights: BlockWeights
    row_scale: RowScale | None
    ln_eps: float
    grn_eps: float
    layout: Layout | None
    rows_per_group: int | Tensor | None
    backend: str | None  # that the caller asked for


def extras(x: Tensor, kernel: Tensor, bias: Tensor | None, *others: Tensor | None) -> tuple[str, ...]:
    """In words, what these arguments have that the fused kernel does not take."""
    found: tuple[str, ...] = ()
    if x.ndim != 4:
        found += ("rows [T, C]",)
    if type(x) is not Tensor:
        found += (f"activations of class {type(x).__name__}",)
    if kernel.ndim != 4:
        found += ("a kernel [49, C]",)
    if bias is None:
        found += ("a convolution without bias",)
    if not torch.compiler.is_compiling() and any(t is not None and t.is_inference() for t in (kernel, bias, *others)):
        found += ("parameters made in inference mode",)
    return found
