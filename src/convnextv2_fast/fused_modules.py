"""Runs blocks, stems and downsampling layers by fused ops, as far as their modules allow it at the time."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor, nn

from . import block_plans, fusion, ops, pair_plans
from .fusion import Pair, Parts
from .graph import is_traced
from .layouts import Layout, SparseTensor
from .ops._shared.checks import check_input

Maps = TypeVar("Maps", Tensor, SparseTensor)
"""What a block takes and returns: planes `[N, C, H, W]`, or a sparse tensor."""


def run_block(p: Parts, x: Maps, block: nn.Module | None = None) -> Maps:
    """Runs a block on x, each half as one op where it may be; planes come back with channels_last strides.

    Args:
        block: the module of these parts, if it may keep a plan.
    """
    any_op = fusion.why_not_any() is None and not is_traced(x)
    first, second = any_op and fusion.why_not_dwconv_layer_norm(p) is None, any_op and fusion.why_not_mlp_grn(p) is None
    drops = second and p.drop_path.training and type(p.drop_path) is not nn.Identity
    groups = p.rows_per_group(p.grn, x) if second and p.rows_per_group is not None else None
    layout = x.layout if isinstance(x, SparseTensor) else None
    rows = _rows(x)
    if first:
        check_input("block", rows, _kernel(p.conv))

    def row_scale(u: Tensor) -> Tensor | None:
        return p.known.row_scale(p.drop_path, _like(x, u))

    if first and second:
        weights: tuple[Any, ...] = (*first_weights(p), *second_weights(p))
        y = ops.block(
            rows,
            *weights,
            layer_scale=p.layer_scale,
            row_scale=row_scale if drops else None,
            ln_eps=p.norm.eps,
            grn_eps=grn_eps(p),
            layout=layout,
            rows_per_group=groups,
        )
        if block is not None:
            block_plans.keep(block, p, weights, (p.norm.eps, grn_eps(p)), rows)
        return _like(x, y)
    u = ops.dwconv_layer_norm(rows, *first_weights(p), eps=p.norm.eps, layout=layout) if first else _call_first(p, x)
    if second:
        scales: dict[str, Any] = dict(row_scale=row_scale(u) if drops else None, layer_scale=p.layer_scale)
        y = ops.mlp_grn(u, *second_weights(p), residual=rows, **scales, eps=grn_eps(p), rows_per_group=groups)
        return _like(x, y)
    y = _call_second(p, u, x)
    y = y if p.layer_scale is None else y * p.layer_scale
    return _like(x, rows + _rows(p.drop_path(_like(x, y))))


def run_pair(p: Pair | str, x: Tensor, layout: Layout | None = None, module: nn.Module | None = None) -> Tensor | None:
    """Runs convolution and LayerNorm as one op; None if they must run as modules (as where `p` is a reason).

    Args:
        x: planes `[N, Cin, H, W]`, or rows `[T, Cin]`.
        layout: that of the rows, or of the result where x are planes of which it takes some sites.
        module: the module of these parts, if it may keep a plan.
    Returns:
        Planes `[N, Cout, H//k, W//k]` with channels_last strides, or with a layout rows `[T', Cout]`.
    """
    if isinstance(p, str) or fusion.why_not_any() is not None or is_traced(x):
        return None
    if fusion.why_not_patch_conv(p) is not None:
        return None
    norm = (p.norm.weight, p.norm.bias)
    before, after = (norm, None) if p.norm_first else (None, norm)
    rows = _rows(x) if x.ndim == 4 else x
    check_input("patch_conv", rows, _kernel(p.conv))
    y = ops.patch_conv(
        rows, _kernel(p.conv), p.conv.bias, norm_before=before, norm_after=after, eps=p.norm.eps, layout=layout
    )
    if module is not None and layout is None:
        pair_plans.keep(module, p, x)
    return y.permute(0, 3, 1, 2) if y.ndim == 4 else y


def _rows(x: Maps) -> Tensor:
    return x.F if isinstance(x, SparseTensor) else x.permute(0, 2, 3, 1)


def _like(x: Maps, rows: Tensor) -> Maps:
    """Returns rows as maps of x's kind, on x's sites."""
    return x.replace(rows) if isinstance(x, SparseTensor) else rows.permute(0, 3, 1, 2)


def _call_first(p: Parts, x: Maps) -> Tensor:
    """Calls convolution and LayerNorm; returns rows."""
    return p.norm(_rows(p.conv(x))) if p.run_first is None else _rows(p.run_first(x))


def _call_second(p: Parts, u: Tensor, x: Maps) -> Tensor:
    """Calls the MLP on rows u of x's sites; returns rows."""
    if p.run_second is not None:
        return _rows(p.run_second(_like(x, u)))
    a = p.act(p.fc1(u))
    no_grn = p.grn is None and type(None) in p.known.grns
    return p.fc2(a if no_grn else p.grn(a))


def _kernel(conv: Any) -> Tensor:
    return conv.weight if type(conv) is nn.Conv2d else conv.kernel


def first_weights(p: Parts) -> tuple[Any, ...]:
    return _kernel(p.conv), p.conv.bias, p.norm.weight, p.norm.bias


def second_weights(p: Parts) -> tuple[Any, ...]:
    grn = (None, None) if p.grn is None else tuple(getattr(p.grn, name) for name in p.known.grn_names)
    return p.fc1.weight, p.fc1.bias, *grn, p.fc2.weight, p.fc2.bias


def grn_eps(p: Parts) -> float:
    return getattr(p.grn, "eps", 1e-6)  # what ConvNeXt V2 has where it is not an attribute
