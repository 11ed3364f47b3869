"""Linear, GELU, GRN, Linear in Triton: allocation and launches of the three strategies and of the backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
from torch import Tensor

from .._shared.groups import Groups
from .._triton import activation, autotune, tma
from .._triton import chip as chips
from .._triton.group_sums import grn_grad, grn_scale, new_partials, reduce_groups
from .._triton.launch import launch
from . import strategy as strategies
from . import triton_kernels as kernels
from .call import out_fake
from .triton_fused import fused_kernel
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
        fast = self.w1.dtype != torch.float32
        ptx = fast and activation.ptx(chips.of(self.w1.device))
        return dict(FAST=fast, PTX=ptx, IEEE=not self.tf32, RAGGED=groups.row_group is not None)

    def hidden(self, u: Tensor, a: Tensor | None, groups: Groups) -> Tensor:
        """Runs GEMM 1; the sums of squares `[G, K]`. The activations go to `a`, if given."""
        (rows, c), k = u.shape, self.w1.shape[0]

        def run(tile: Tile) -> Tensor:
            partial = new_partials(rows, k, tile.rows, groups, u)
            unit = _unit(c)
            products = _read(tile, u, tile.rows, tile.depth), _read(tile, self.w1, tile.columns, tile.depth)
            sizes = (rows, c // unit, k, groups.rows_per_group)
            flags = self.flags(groups) | dict(UNIT=unit, STORE=a is not None)
            grid = _grid(tile, u, rows, k)
            args = (*products, self.b1, a, partial, groups.row_group, groups.offsets, *sizes)
            launch(kernels.hidden_kernel, grid, *args, **flags, **tile.options("BD"))
            return partial

        tile = _pick("hidden", c, run, u, self.w1)
        return reduce_groups(run(tile), groups, tile.rows)


def _unit(c: int) -> int:
    return math.gcd(c, 16)


def _pick(kernel: str, c: int, run: Callable[[Tile], Any], *operands: Tensor) -> Tile:
    """The tile of a kernel whose products read `operands`, from the table, or tuned."""
    chip, dtype = chips.of(operands[0].device), operands[0].dtype
    key = f"mlp_grn {kernel} C={c} {str(dtype).removeprefix('torch.')}"
    readable = tma.possible(chip, *operands)
    key += " tma" if readable else ""

    def alternatives() -> list[Tile]:
        return [t for t in candidates(kernel, chip, c, dtype) if readable or not t.persistent]

    default = tiles(kernel, chip, c, dtype)
    tile = autotune.pick(key, chip, default, alternatives, run) if operands[0].numel() else default
    return tile if readable else replace(tile, persistent=0)


def _read(tile: Tile, matrix: Tensor, rows: int, columns: int) -> Any:
    """A kernel's argument for a matrix that it reads in tiles `[rows, columns]`."""
    return tma.tiles_of(matrix, rows, columns) if tile.persistent else matrix


def _grid(tile: Tile, u: Tensor, rows: int, columns: int) -> tuple[int]:
    work = triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns)
    return (tile.programs(work, chips.of(u.device)),)


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
    out = out_fake(u, w2, residual)
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
    del flags["FAST"], flags["PTX"]
    flags["UNIT"] = unit = _unit(c_out)
    args = (mlp.b2, scale, mlp.beta, row_scale, residual, out, groups.row_group)
    sizes = (rows, k, c_out // unit, groups.rows_per_group, _rows_per_factor(rows, row_scale))

    def run(tile: Tile) -> None:
        products = _read(tile, a, tile.rows, tile.depth), _read(tile, mlp.w2, tile.columns, tile.depth)
        grid = _grid(tile, u, rows, c_out)
        launch(kernels.output_kernel, grid, *products, *args, *sizes, **flags, **tile.options("BK"))

    run(_pick("output", c_out, run, a, mlp.w2))


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
    parts = pieces(c)
    flags = mlp.flags(groups) | dict(C=c, C0=parts[0], C1=parts[1], C2=parts[2])
    args = (mlp.b2, scale, mlp.beta, row_scale, residual, out, groups.row_group)
    sizes = (rows, k, groups.rows_per_group, _rows_per_factor(rows, row_scale))

    def run(tile: Tile) -> None:
        w1 = [_read(tile, mlp.w1, tile.depth, part) if part else None for part in parts]
        w2 = [_read(tile, mlp.w2, part, tile.depth) if part else None for part in parts]
        options = flags | tile.options("BK")
        del options["BN"]
        launch(fused_kernel, (triton.cdiv(rows, tile.rows),), u, *w1, mlp.b1, *w2, *args, *sizes, **options)

    run(_pick("fused", c, run, mlp.w1, mlp.w2))


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
    strategy: str,
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
    save = strategies.save_hidden(chips.of(u.device), c, u.dtype)
    unit = math.gcd(_unit(c), _unit(c_out))
    sizes = (groups.row_group, groups.offsets, rows, c // unit, k, c_out // unit, groups.rows_per_group)
    flags = mlp.flags(groups) | dict(UNIT=unit, KEEP=save)

    def start(tile: Tile, *args: Tensor | None, second: bool) -> None:
        rows_read = (_read(tile, m, tile.rows, tile.depth) for m in (dy, u))
        w1_read, w2_read = _read(tile, w1, tile.columns, tile.depth), _read(tile, w2, tile.depth, tile.columns)
        options = flags | tile.options("BD") | dict(SECOND=second)
        products = (*rows_read, w1_read, b1, w2_read)
        launch(kernels.backward_kernel, _grid(tile, u, rows, k), *products, *args, *sizes, **options)

    def first(tile: Tile) -> tuple[Tensor, Tensor]:
        product, total = (new_partials(rows, k, tile.rows, groups, u) for _ in range(2))
        start(tile, None, None, beta, g, dh, product, total, second=False)
        return product, total

    tile = _pick("backward", c, first, dy, u, w1, w2)
    product, total = (reduce_groups(partial, groups, tile.rows) for partial in first(tile))
    scale, factor, dgamma = grn_grad(product, gamma, norm, eps)
    db1 = u.new_empty((triton.cdiv(rows, tile.rows), k), dtype=torch.float32)
    start(tile, scale, factor, beta, g, dh, db1, None, second=True)
    db2 = dy.sum(0, dtype=torch.float32)
    return dh @ w1, dh.t() @ u, db1.sum(0), dgamma, total.sum(0), dy.t() @ g, db2
