"""A call of the block as its implementations take it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...layouts import Layout
from ...spec import Spec


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


def spec(x: Tensor, *params: Tensor | None, layout: Layout | None = None, drop_path: bool = False) -> Spec:
    """The spec of a call, with what the fused kernel does not take among its `extras`. `params`: :class:`BlockWeights`,
    as many as are at hand."""
    tracing = torch.compiler.is_compiling()  # then it runs as two ops, whatever the parameters are
    dtype, grad, extras = x.dtype, torch.is_grad_enabled(), ["drop path"] if drop_path else []
    if grad:
        extras.append("autograd")
    if tracing:
        extras.append("torch.compile")
    elif x.device.type != "meta" and torch.is_autocast_enabled(x.device.type):
        extras.append("autocast")
    needs_grad = grad and x.requires_grad
    given = [p for p in params if p is not None]
    if grad:
        needs_grad = needs_grad or any(p.requires_grad for p in given)
    dtypes = {p.dtype for p in given}
    param_dtype = next(iter(dtypes)) if len(dtypes) == 1 else None
    if x.ndim != 4:
        extras.append("rows [T, C]")
    if type(x) is not Tensor:
        extras.append(f"activations of class {type(x).__name__}")
    if params and params[0] is not None and params[0].ndim != 4:
        extras.append("a kernel [49, C]")
    if len(params) > 1 and params[1] is None:
        extras.append("a convolution without bias")
    if torch.float64 in dtypes and dtype != torch.float64:
        extras.append("parameters in float64")
    kind = "dense" if layout is None else layout.kind
    return Spec("block", x.device.type, dtype, param_dtype, x.shape[-1], kind, needs_grad, tuple(extras))
