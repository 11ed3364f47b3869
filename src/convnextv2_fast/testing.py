"""Random problems for every op: any shape, dtype, device and layout; and the rule by which results are judged.

The tests and ``python -m convnextv2_fast check`` share this module. Everything is drawn on the CPU in float64 from a
seed, so that one problem is the same numbers in every dtype and on every device.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from . import dispatch, ops
from .layouts import DenseLayout, Layout, PatchLayout, SiteLayout

KERNEL_OPS = ("dwconv_layer_norm", "grn", "layer_norm", "mlp_grn", "patch_conv", "sparse_dwconv")
ALL_OPS = ("block", *KERNEL_OPS)  # block is composed of two of them where it is not one operator
LAYOUTS = ("dense", "rows", "patch", "ragged", "site")
FOLDERS = {"sparse_dwconv": "_dwconv"}  # of the op of another name
_ACTIVATIONS = ("x", "u", "residual", "row_scale")


def room(op: str, module: str) -> ModuleType:
    """A module of an op's folder: its "reference", its "triton" backend."""
    return importlib.import_module(f"convnextv2_fast.ops.{FOLDERS.get(op, f'_{op}')}.{module}")


@dataclass
class Problem:
    """Arguments of one call: `tensors` by parameter name (all differentiable), `options` by keyword."""

    op: str
    tensors: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)

    def to(
        self,
        dtype: torch.dtype,
        requires_grad: bool = True,
        *,
        device: torch.device | str = "cpu",
        param_dtype: torch.dtype | None = None,
    ) -> Problem:
        """The same problem, rounded to `dtype`, as fresh leaf tensors on `device`.

        Args:
            param_dtype: another dtype for the parameters, such as float32 beside bfloat16 activations (autocast).
        """
        params = param_dtype or dtype
        fresh = {
            name: t.detach().to(device, dtype if name in _ACTIVATIONS else params).requires_grad_(requires_grad)
            for name, t in self.tensors.items()
        }
        return Problem(self.op, fresh, {name: _move(value, device) for name, value in self.options.items()})

    def call(self, function: Callable[..., Tensor], **extra: Any) -> Tensor:
        """Calls a function of the op's signature."""
        t = dict(self.tensors)
        options = dict(self.options, **extra)
        for name in ("residual", "row_scale", "layer_scale"):
            if name in t:
                options[name] = t.pop(name)
        for norm in ("norm_before", "norm_after"):
            if f"{norm}_weight" in t:
                options[norm] = (t.pop(f"{norm}_weight"), t.pop(f"{norm}_bias"))
        return function(*t.values(), **options)

    def spec(self) -> dispatch.Spec:
        """The spec by which dispatch chooses a backend for this call."""
        x = next(iter(self.tensors.values()))
        params = [t for name, t in self.tensors.items() if name not in _ACTIVATIONS]
        return dispatch.spec_of(self.op, x, *params, layout=self.options.get("layout"))

    def public(self, **extra: Any) -> Tensor:
        """Calls the public op; `extra` keywords such as ``backend=``."""
        return self.call(getattr(ops, self.op), **extra)

    def reference(self) -> Tensor:
        """Calls the op's plain PyTorch reference."""
        return self.call(getattr(room(self.op, "reference"), self.op))


def _move(value: Any, device: torch.device | str) -> Any:
    """A layout or a tensor of counts on another device; anything else unchanged."""
    return value.to(device) if isinstance(value, Tensor | Layout) else value


def kinds(op: str) -> tuple[str, ...]:
    """The layouts that `op` has problems for; see :func:`layout_for`."""
    if op == "layer_norm":
        return ("dense", "rows")
    return LAYOUTS[1:] if op == "sparse_dwconv" else LAYOUTS


def layout_for(kind: str, n: int, h: int, w: int, seed: int = 0) -> Layout | None:
    """None for "dense"; "rows" is dense rows; "patch" and "ragged" are patches of edge 2, about half of them kept, the
    same number in every sample or any; "site" is scattered sites."""
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
    if op == "block":
        first, second = (make(half, n, h, w, c, kind, seed) for half in ("dwconv_layer_norm", "mlp_grn"))
        names = ("w1", "b1", "gamma", "beta", "w2", "b2")
        tensors = first.tensors | {name: second.tensors[name] for name in names}
        return Problem(op, tensors | {"layer_scale": rand(c)}, place | rows)
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
    raise KeyError(f"convnextv2_fast.testing has no problem for the op {op!r} yet: add one to make()")


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Adds noise to every vector-like parameter in place (GRN's gamma and beta, biases, norms), which initialisation
    leaves at 0 or 1: then nothing in the model is the identity."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.numel() == max(p.shape):
                p.add_(torch.randn(p.shape, generator=g).to(p), alpha=0.2)
    return model


def relative_error(got: Tensor, exact: Tensor) -> float:
    """Largest deviation from the float64 `exact`, relative to its largest element (1e-3 at least); NaN if any is."""
    want = exact.detach().double()
    if not want.numel():
        return 0.0
    difference = (got.detach().to(want.device).double() - want).abs().max()
    return (difference / want.abs().max().clamp_min(1e-3)).item()


def gradient_error(got: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> float:
    """Root mean square, over a model's parameters, of the relative error (Euclidean norms) of each gradient."""
    total = 0.0
    for name, want in exact.items():
        wide = want.detach().double()
        difference = (got[name].detach().to(wide.device).double() - wide).norm()
        total += (difference / wide.norm().clamp_min(1e-30)).item() ** 2
    return (total / max(len(exact), 1)) ** 0.5


def tolerance(plain_error: float, dtype: torch.dtype) -> float:
    """The rule of the library: at most twice the error of plain PyTorch in the same dtype, plus a rounding floor."""
    return 2 * plain_error + 4 * torch.finfo(dtype).eps
