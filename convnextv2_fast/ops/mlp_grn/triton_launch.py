"""Linear, GELU, GRN, Linear in Triton: allocation and launches of the three strategies and of the backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from .._triton import autotune
from .._triton import chip as chips
from .._triton.group_sums import grn_grad, grn_scale, new_partials, reduce_groups
from .._triton.groups import Groups
from .._triton.launch import launch
from . import strategy as strategies
from . import triton_kernels as kernels
from .triton_tiles import Tile, candidates, pieces, tiles


@dataclass
class _Mlp:
    """What every launch of one call shares; parameters of the matrix products in u's dtype."""

    w1: Tensor
    b1: Tensor
    gamma: Tensor
    beta: Tensor
    w2: Tensor
    b2: Tensor | None
    eps: float
    tf32: bool

    def flags(self, groups: Groups) -> dict[str, bool]:
        return dict(FAST=self.w1.dtype != torch.float32, IEEE=not self.tf32, RAGGED=groups.row_group is not None)

    def hidden(self, u: Tensor, a: Tensor | None, groups: Groups) -> Tensor:
        """Runs GEMM 1; the sums of squares `[G, K]`. The activations go to `a`, if given."""
        (rows, c), k = u.shape, self.w1.shape[0]

        def run(tile: Tile) -> Tensor:
            partial = new_partials(rows, k, tile.rows, groups, u)
            grid = (triton.cdiv(rows, tile.rows) * triton.cdiv(k, tile.columns),)
            unit = _unit(c)
            args = (u, self.w1, self.b1, a, partial, groups.row_group, rows, c // unit, k, groups.rows_per_group)
            flags = self.flags(groups) | dict(UNIT=unit, STORE=a is not None)
            launch(kernels.hidden_kernel, grid, *args, **flags, **tile.options("BD"))
            return partial

        tile = _pick("hidden", u, c, run)
        return reduce_groups(run(tile), groups, tile.rows)


def _unit(c: int) -> int:
    return math.gcd(c, 16)


def _pick(kernel: str, u: Tensor, c: int, run: Callable[[Tile], Any]) -> Tile:
    """The tile of a kernel: from the table, or tuned."""
    chip = chips.of(u.device)
    key = f"mlp_grn {kernel} C={c} {str(u.dtype).removeprefix('torch.')}"
    return autotune.pick(key, chip, tiles(kernel, chip, c, u.dtype), lambda: candidates(kernel, chip, u.dtype), run)


def _cast(u: Tensor, *matrices: Tensor) -> list[Tensor]:
    return [m.to(u.dtype).contiguous() for m in matrices]


def _rows_per_factor(rows: int, row_scale: Tensor | None) -> int:
    """Adjacent rows that share one factor of drop path."""
    return 1 if row_scale is None else max(rows // max(row_scale.shape[0], 1), 1)


def forward(
    u: Tensor,
    w1: Tensor,
    b1: Tensor,
    gamma: Tensor,
    beta: Tensor,
    w2: Tensor,
    b2: Tensor,
    residual: Tensor | None,
    row_scale: Tensor | None,
    eps: float,
    tf32: bool,
    strategy: str,
    rows_per_group: int,
    count: int,
    row_group: Tensor | None,
    offsets: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`(out [T, C'], norm [G, K] float32)` of contiguous rows u `[T, C]`."""
    groups = Groups(rows_per_group, count, row_group, offsets)
    w1, w2 = _cast(u, w1, w2)
    mlp = _Mlp(w1, b1, gamma, beta, w2, b2, eps, tf32)
    dtype = u.dtype if residual is None else torch.promote_types(u.dtype, residual.dtype)
    out = u.new_empty((u.shape[0], w2.shape[0]), dtype=dtype)
    norm = u.new_empty((count, w1.shape[0]), dtype=torch.float32)
    if strategy == "auto":
        strategy = strategies.choose(chips.of(u.device), *u.shape, u.dtype, rows_per_group, w2.shape[0])
    if strategy == "recompute":
        _recompute(mlp, u, residual, row_scale, out, norm, groups)
    elif strategy == "chunked":
        _chunked(mlp, u, residual, row_scale, out, norm, groups)
    else:
        a = u.new_empty((u.shape[0], w1.shape[0]))
        _materialize(mlp, u, a, residual, row_scale, out, norm, groups)
    return out, norm


def _materialize(
    mlp: _Mlp,
    u: Tensor,
    a: Tensor,
    residual: Tensor | None,
    row_scale: Tensor | None,
    out: Tensor,
    norm: Tensor,
    groups: Groups,
) -> None:
    rows, (c_out, k) = u.shape[0], mlp.w2.shape
    squares = mlp.hidden(u, a, groups)
    scale = grn_scale(squares, mlp.gamma, mlp.eps, norm)
    flags = mlp.flags(groups)
    del flags["FAST"]
    flags["UNIT"] = unit = _unit(c_out)
    args = (a, mlp.w2, mlp.b2, scale, mlp.beta, row_scale, residual, out, groups.row_group, rows, k)

    def run(tile: Tile) -> None:
        grid = (triton.cdiv(rows, tile.rows) * triton.cdiv(c_out, tile.columns),)
        sizes = (c_out // unit, groups.rows_per_group, _rows_per_factor(rows, row_scale))
        launch(kernels.output_kernel, grid, *args, *sizes, **flags, **tile.options("BK"))

    run(_pick("output", u, c_out, run))


def _recompute(
    mlp: _Mlp,
    u: Tensor,
    residual: Tensor | None,
    row_scale: Tensor | None,
    out: Tensor,
    norm: Tensor,
    groups: Groups,
) -> None:
    (rows, c), k = u.shape, mlp.w1.shape[0]
    squares = mlp.hidden(u, None, groups)
    scale = grn_scale(squares, mlp.gamma, mlp.eps, norm)
    c0, c1, c2 = pieces(c)
    flags = mlp.flags(groups) | dict(C=c, C0=c0, C1=c1, C2=c2)
    args = (u, mlp.w1, mlp.b1, mlp.w2, mlp.b2, scale, mlp.beta, row_scale, residual, out, groups.row_group)
    sizes = (rows, k, groups.rows_per_group, _rows_per_factor(rows, row_scale))

    def run(tile: Tile) -> None:
        options = flags | dict(BM=tile.rows, BK=tile.depth, num_warps=tile.warps, num_stages=tile.stages)
        launch(kernels.fused_kernel, (triton.cdiv(rows, tile.rows),), *args, *sizes, **options)

    run(_pick("fused", u, c, run))


def _chunked(
    mlp: _Mlp,
    u: Tensor,
    residual: Tensor | None,
    row_scale: Tensor | None,
    out: Tensor,
    norm: Tensor,
    groups: Groups,
) -> None:
    """Materialises as many groups at a time as leave their hidden activations in a third of the last-level cache."""
    k, size = mlp.w1.shape[0], groups.rows_per_group
    per_group = size * k * u.element_size()
    step = min(max(1, chips.of(u.device).l2 // 3 // per_group), max(groups.count, 1))
    hidden = u.new_empty((step * size, k))
    if row_scale is not None and row_scale.shape[0] != groups.count:
        row_scale = row_scale.repeat_interleave(u.shape[0] // row_scale.shape[0])
    per_row = 0 if row_scale is None or not groups.count else row_scale.shape[0] // groups.count
    for first in range(0, groups.count, step):
        last = min(first + step, groups.count)
        rows = slice(first * size, last * size)
        _materialize(
            mlp,
            u[rows],
            hidden,
            None if residual is None else residual[rows],
            None if row_scale is None else row_scale[first * per_row : last * per_row],
            out[rows],
            norm[first:last],
            groups._replace(count=last - first),
        )


def backward(
    dy: Tensor,
    u: Tensor,
    w1: Tensor,
    b1: Tensor,
    gamma: Tensor,
    beta: Tensor,
    w2: Tensor,
    norm: Tensor,
    eps: float,
    tf32: bool,
    rows_per_group: int,
    count: int,
    row_group: Tensor | None,
    offsets: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`(du, dw1, db1, dgamma, dbeta, dw2, db2)` from dy `[T, C']`, drop path applied, in u's dtype.

    du, dw1 and dw2 in u's dtype, the others in float32. The three products over whole matrices are the library's."""
    groups = Groups(rows_per_group, count, row_group, offsets)
    w1, w2 = _cast(u, w1, w2)
    mlp = _Mlp(w1, b1, gamma, beta, w2, None, eps, tf32)
    (rows, c), (c_out, k) = u.shape, w2.shape
    g, dh = (u.new_empty((rows, k)) for _ in range(2))
    weights = (dy, u, w1, b1, w2)
    keep = strategies.keep_hidden(chips.of(u.device), c, u.dtype)
    unit = math.gcd(_unit(c), _unit(c_out))
    sizes = (groups.row_group, rows, c // unit, k, c_out // unit, groups.rows_per_group)
    flags = mlp.flags(groups) | dict(UNIT=unit, KEEP=keep)

    def start(tile: Tile, *args: Tensor | None, second: bool) -> None:
        grid = (triton.cdiv(rows, tile.rows) * triton.cdiv(k, tile.columns),)
        options = flags | tile.options("BD") | dict(SECOND=second)
        launch(kernels.backward_kernel, grid, *weights, *args, *sizes, **options)

    def first(tile: Tile) -> tuple[Tensor, Tensor]:
        product, total = (new_partials(rows, k, tile.rows, groups, u) for _ in range(2))
        start(tile, None, None, beta, g, dh, product, total, second=False)
        return product, total

    tile = _pick("backward", u, c, first)
    product, total = (reduce_groups(partial, groups, tile.rows) for partial in first(tile))
    scale, factor, dgamma = grn_grad(product, gamma, norm, eps)
    db1 = u.new_empty((triton.cdiv(rows, tile.rows), k), dtype=torch.float32)
    start(tile, scale, factor, beta, g, dh, db1, None, second=True)
    db2 = dy.sum(0, dtype=torch.float32)
    return dh @ w1, dh.t() @ u, db1.sum(0), dgamma, total.sum(0), dy.t() @ g, db2
