"""Random problems for every op, shared by the op tests: one builder per op, any shape, dtype, device and layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from convnextv2_fast import ops
from convnextv2_fast.layouts import DenseLayout, Layout, PatchLayout, SiteLayout


@dataclass
class Problem:
    """Arguments of one call: `tensors` by parameter name (all differentiable), `options` by keyword."""

    op: str
    tensors: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)

    def to(self, dtype: torch.dtype, requires_grad: bool = True) -> Problem:
        fresh = {k: v.detach().to(dtype).requires_grad_(requires_grad) for k, v in self.tensors.items()}
        return Problem(self.op, fresh, self.options)

    def call(self, function: Callable[..., Tensor], **extra: Any) -> Tensor:
        t = dict(self.tensors)
        options = dict(self.options, **extra)
        for name in ("residual", "row_scale"):
            if name in t:
                options[name] = t.pop(name)
        for norm in ("norm_before", "norm_after"):
            if f"{norm}_weight" in t:
                options[norm] = (t.pop(f"{norm}_weight"), t.pop(f"{norm}_bias"))
        return function(*t.values(), **options)

    def public(self, **extra: Any) -> Tensor:
        return self.call(getattr(ops, self.op), **extra)

    def reference(self) -> Tensor:
        import importlib

        return self.call(getattr(importlib.import_module(f"convnextv2_fast.ops.{self.op}.reference"), self.op))


def layout_for(kind: str, n: int, h: int, w: int, seed: int = 0) -> Layout | None:
    """None for "dense"; patches of edge 2 (about half kept, one patch at least); scattered sites; "rows" is dense rows."""
    g = torch.Generator().manual_seed(seed)
    if kind == "dense":
        return None
    if kind == "rows":
        return DenseLayout(n, h, w)
    if kind == "patch":
        mask = torch.argsort(torch.rand(n, h * w, generator=g), dim=1) >= max(1, h * w // 2)
        return PatchLayout.from_mask(mask.float(), 2, grid=(h, w))
    if kind == "ragged":
        return PatchLayout.from_mask((torch.rand(n, h, w, generator=g) < 0.5).float(), 2)
    return SiteLayout.from_mask(torch.rand(n, h, w, generator=g) < 0.6)


def make(op: str, n: int, h: int, w: int, c: int, kind: str = "dense", seed: int = 0) -> Problem:
    """A float64 problem of `op` with an `[n, h, w, c]` plane (times 2 for patch layouts, whose tiles have edge 2)."""
    g = torch.Generator().manual_seed(seed + 1)

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    layout = layout_for(kind, n, h, w, seed)
    x = rand(n, h, w, c) if layout is None else rand(layout.rows, c)
    rows = {} if layout is None else {"rows_per_group": layout.rows_per_sample}
    place = {} if layout is None else {"layout": layout}
    if op == "layer_norm":
        return Problem(op, {"x": x, "weight": rand(c), "bias": rand(c)})
    if op == "grn":
        return Problem(op, {"x": x, "gamma": rand(1, 1, 1, c), "beta": rand(1, 1, 1, c)}, rows)
    if op == "dwconv_layer_norm":
        kernel = rand(c, 1, 7, 7) / 7 if layout is None else rand(49, c) / 7
        return Problem(op, {"x": x, "weight": kernel, "bias": rand(c), "ln_weight": rand(c), "ln_bias": rand(c)}, place)
    if op == "sparse_dwconv":
        layout = layout or DenseLayout(n, h, w)
        return Problem(op, {"x": x.reshape(-1, c), "kernel": rand(49, c) / 7, "bias": rand(1, c)}, {"layout": layout})
    if op == "mlp_grn":
        k = 4 * c
        scale = torch.rand(n if isinstance(rows.get("rows_per_group", 1), int) else x.shape[0], generator=g) + 0.5
        tensors = {
            "u": x,
            "w1": rand(k, c) / c**0.5,
            "b1": rand(k),
            "gamma": rand(1, 1, 1, k),
            "beta": rand(1, 1, 1, k),
            "w2": rand(c, k) / k**0.5,
            "b2": rand(c),
            "residual": rand(*x.shape),
            "row_scale": scale.double(),
        }
        return Problem(op, tensors, rows)
    if op == "patch_conv":
        out = c + 3
        weight = rand(out, c, 2, 2) / (4 * c) ** 0.5 if layout is None else rand(4, c, out) / (4 * c) ** 0.5
        tensors = {
            "x": x,
            "weight": weight,
            "bias": rand(out),
            "norm_before_weight": rand(c),
            "norm_before_bias": rand(c),
        }
        return Problem(op, tensors, place)
    raise KeyError(op)


ALL_OPS = ("dwconv_layer_norm", "grn", "layer_norm", "mlp_grn", "patch_conv", "sparse_dwconv")
