"""One ConvNeXt block of any library, V1 or V2, on this library's ops.

Each of the two halves runs fused where its modules are what they seem, and as modules where they are not: a linear
layer with an adapter on it, a quantised one, a hooked one, another activation. That is looked at in every call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from .. import ops
from ..models.utils import touched
from ._swap import Inspection

FIRST, SECOND = "dwconv_layer_norm", "mlp_grn"


class Parts(NamedTuple):
    """The modules of a block, and how the block calls those that are not fused."""

    conv: Any  # modules of other libraries
    norm: Any
    norms: Sequence[type]  # classes of LayerNorm that compute LayerNorm over C and nothing else
    fc1: Any
    act: Any
    activations: Sequence[type]  # classes that compute the erf GELU, or nn.GELU, whose argument decides
    grn: Any
    grn_parameters: tuple[Tensor, Tensor] | tuple[None, None]
    grn_eps: float
    fc2: Any
    drops: Sequence[Any]  # dropout: fused while it does nothing
    layer_scale: Tensor | None
    drop_path: Any
    drop_paths: Sequence[type]  # classes that row_scale stands for
    row_scale: Callable[[nn.Module, Tensor], Tensor | None]  # the factors drop_path draws
    run_first: Callable[[Tensor], Tensor]  # [N, C, H, W] to [N, H, W, C]
    run_second: Callable[[Tensor], Tensor]  # [N, H, W, C] to the same, before layer scale


def why_not_first(p: Parts) -> str | None:
    """Why convolution and LayerNorm run as modules; None if they run as one op."""
    conv = p.conv
    if type(conv) is not nn.Conv2d:
        return f"the convolution is a {type(conv).__name__}"
    if conv.kernel_size != (7, 7):
        return f"the convolution is {conv.kernel_size[0]}x{conv.kernel_size[1]}, the kernels are 7x7"
    if conv.dilation != (1, 1):
        return f"the convolution has dilation {conv.dilation[0]}"
    if conv.stride != (1, 1) or conv.padding != (3, 3) or conv.padding_mode != "zeros":
        return "the convolution has a stride, or padding other than 3 zeros"
    if not conv.groups == conv.in_channels == conv.out_channels:
        return "the convolution is not depthwise"
    if type(p.norm) not in p.norms:
        return f"the norm is a {type(p.norm).__name__}"
    if p.norm.weight is None or p.norm.bias is None:
        return "LayerNorm has no weight or no bias"
    return _touched(conv, "the convolution") or _touched(p.norm, "LayerNorm")


def why_not_second(p: Parts) -> str | None:
    """Why the MLP runs as modules; None if it runs as one op."""
    for name, m in (("first", p.fc1), ("second", p.fc2)):
        if type(m) is nn.Conv2d:
            if m.kernel_size != (1, 1) or m.stride != (1, 1) or m.padding != (0, 0) or m.groups != 1:
                return f"the {name} linear layer is a convolution other than 1x1"
        elif type(m) is not nn.Linear:
            return f"the {name} linear layer is a {type(m).__name__}"
        if m.bias is None:
            return f"the {name} linear layer has no bias"
    if type(p.act) not in p.activations or getattr(p.act, "approximate", "none") != "none":
        return f"the activation is {p.act!r}, the kernels have the erf GELU"
    for drop in p.drops:
        if type(drop) is not nn.Dropout and type(drop) is not nn.Identity:
            return f"there is a {type(drop).__name__} in the MLP"
        if type(drop) is nn.Dropout and drop.p and drop.training:
            return f"dropout of {drop.p} in the MLP"
    modules = (p.fc1, "the first linear layer"), (p.act, "the activation"), (p.fc2, "the second linear layer")
    for m, name in modules:
        reason = _touched(m, name)
        if reason is not None:
            return reason
    if type(p.drop_path) is not nn.Identity and type(p.drop_path) not in p.drop_paths:
        return f"drop path is a {type(p.drop_path).__name__}"
    return (_touched(p.grn, "GRN") if p.grn is not None else None) or _touched(p.drop_path, "drop path")


def inspect(found: Parts | str) -> Inspection:
    """Returns which halves of a block run fused, and why the others do not."""
    if isinstance(found, str):
        return Inspection((), (found,))
    reasons = {FIRST: why_not_first(found), SECOND: why_not_second(found)}
    fused = tuple(op for op, reason in reasons.items() if reason is None)
    return Inspection(fused, tuple(f"not {op}: {reason}" for op, reason in reasons.items() if reason is not None))


def _touched(m: nn.Module, name: str) -> str | None:
    what = touched(m)
    return None if what is None else f"{name} {what}"


def run(p: Parts, x: Tensor) -> Tensor:
    """Runs the block on x `[N, C, H, W]`; the result has channels_last strides."""
    hooked = _has_any_global_hook()
    first, second = not hooked and why_not_first(p) is None, not hooked and why_not_second(p) is None
    drops = p.drop_path.training and type(p.drop_path) is not nn.Identity
    rows = x.permute(0, 2, 3, 1)

    def row_scale(u: Tensor) -> Tensor | None:
        return p.row_scale(p.drop_path, u) if drops else None

    if not second:
        u = ops.dwconv_layer_norm(rows, *_first(p), eps=p.norm.eps) if first else p.run_first(x)
        y = p.run_second(u)
        y = y if p.layer_scale is None else y * p.layer_scale
        return x + p.drop_path(y.permute(0, 3, 1, 2))
    mlp: tuple[Any, ...] = (p.fc1.weight, p.fc1.bias, *p.grn_parameters, p.fc2.weight, p.fc2.bias)
    if first:
        scales: dict[str, Any] = dict(row_scale=row_scale if drops else None, layer_scale=p.layer_scale)
        y = ops.block(rows, *_first(p), *mlp, **scales, ln_eps=p.norm.eps, grn_eps=p.grn_eps)
    else:
        u = p.run_first(x)
        scales = dict(row_scale=row_scale(u), layer_scale=p.layer_scale)
        y = ops.mlp_grn(u, *mlp, residual=rows, **scales, eps=p.grn_eps)
    return y.permute(0, 3, 1, 2)


def _first(p: Parts) -> tuple[Any, ...]:
    return p.conv.weight, p.conv.bias, p.norm.weight, p.norm.bias
