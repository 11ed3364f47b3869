"""A call of the block as its implementations take it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...layouts import Layout
from ...spec import Spec
from .._shared.checks import check, has_shape, is_depthwise7


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


RowScale = Callable[[Tensor], Tensor | None]
"""A tensor of the shape, dtype and device of what the MLP reads to drop path's factors `[R]`; its values are any."""


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
    device = x.device
    return Spec("block", device.type, dtype, param_dtype, x.shape[-1], kind, needs_grad, tuple(extras), device.index)


def check_weights(
    kernel: Tensor,
    bias: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    gamma: Tensor,
    beta: Tensor,
    w2: Tensor,
    b2: Tensor,
    layer_scale: Tensor | None,
) -> None:
    """Raises UnsupportedInputError if the parameters do not fit each other; w1 and w2 as matrices."""
    c, k = kernel.shape[1 if kernel.ndim == 2 else 0], w1.shape[0] if w1.ndim == 2 else -1
    per_channel = dict(bias=bias, ln_weight=ln_weight, ln_bias=ln_bias, b2=b2, layer_scale=layer_scale)
    per_hidden = dict(b1=b1, gamma=gamma, beta=beta)
    check(
        is_depthwise7(kernel, c)
        and has_shape(w1, k, c)
        and has_shape(w2, c, k)
        and all(v is None or v.numel() == c for v in per_channel.values())
        and all(v.numel() == k for v in per_hidden.values()),
        "block",
        "wants kernel [C, 1, 7, 7] or [49, C], w1 [K, C], w2 [C, K], b1, gamma and beta of K elements, the others of C",
        kernel=kernel,
        w1=w1,
        w2=w2,
        **per_channel,
        **per_hidden,
    )
