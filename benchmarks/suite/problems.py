"""Inputs of every op: random, never zero, and large enough in number that they do not sit in a cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import convnextv2_fast as cf
from convnextv2_fast import testing
from convnextv2_fast.layouts import Layout, PatchLayout

from .roofline import Work, op_work

KEEP = 0.4  # FCMAE's share of visible patches


@dataclass
class Problem:
    """One set of arguments of an op: `tensors` by position (activations first), and what is passed by name."""

    op: str
    tensors: list[Tensor]
    call: Callable[..., Tensor]  # call(function, *tensors, **extra): how this op takes them
    layout: Layout | None = None

    def run(self, function: Callable[..., Tensor], tensors: list[Tensor], **extra: Any) -> Tensor:
        return self.call(function, *tensors, **extra)


def public(op: str) -> Callable[..., Tensor]:
    """The public function of an op."""
    return getattr(cf.ops, op)


def reference(op: str) -> Callable[..., Tensor]:
    """The op's plain PyTorch reference."""
    return getattr(testing.room(op, "reference"), op)


@dataclass(frozen=True)
class Shape:
    """`[n, h, w, c]` of the op's input; `c_out` and `k` for patch_conv (k=4: stem, k=2: downsampling)."""

    n: int
    h: int
    w: int
    c: int
    c_out: int = 0
    k: int = 0

    def __str__(self) -> str:
        return f"{self.n}x{self.sample}"

    @property
    def sample(self) -> str:
        """Of one sample: 56x56x96, or 56x56x96to192k2."""
        return f"{self.h}x{self.w}x{self.c}" + (f"to{self.c_out}k{self.k}" if self.k else "")


def patch_layout(n: int, side: int, device: str, seed: int) -> PatchLayout:
    """FCMAE's active sites on a `side` x `side` plane: 40 % of the patches of an image, tiles of side / 7."""
    if side % 7:
        raise ValueError(f"a plane of {side} sites holds no 7 x 7 grid of patches")
    order = torch.rand(n, 49, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)
    kept = int(49 * KEEP)
    mask = (order >= kept).float().to(device)
    return PatchLayout.from_mask(mask.view(n, 7, 7), side // 7, kept=kept)


def make(op: str, shape: Shape, dtype: torch.dtype, device: str, seed: int) -> Problem:
    """Builds the problem; values are of the size they have in a network.

    An op without a recipe here takes the tests' problem, so that a new op is measured from its first day."""
    g = torch.Generator(device=device).manual_seed(seed)  # there: a large batch takes seconds on the host

    def tensor(*size: int, scale: float = 1.0, mean: float = 0.0) -> Tensor:
        return (torch.randn(size, generator=g, device=device) * scale + mean).to(dtype)

    def gain(c: int) -> Tensor:
        return tensor(c, scale=0.2, mean=1.0)

    n, h, w, c = shape.n, shape.h, shape.w, shape.c
    if op == "sparse_dwconv":
        layout = patch_layout(n, h, device, seed)
        tensors = [tensor(layout.rows, c), tensor(49, c, scale=1 / 7), tensor(c)]
        return Problem(op, tensors, lambda f, *t, **kw: f(*t, layout=layout, **kw), layout)
    x = tensor(n, h, w, c)
    if op == "dwconv_layer_norm":
        tensors = [x, tensor(c, 1, 7, 7, scale=1 / 7), tensor(c), gain(c), tensor(c)]
    elif op == "mlp_grn":
        u, hidden = tensor(n, h, w, c), 4 * c
        tensors = [u, tensor(hidden, c, scale=c**-0.5), tensor(hidden), tensor(hidden), tensor(hidden)]
        tensors += [tensor(c, hidden, scale=hidden**-0.5), tensor(c), x]
        return Problem(op, tensors, lambda f, *t, **kw: f(*t[:7], residual=t[7], **kw))
    elif op in ("grn", "layer_norm"):
        tensors = [x, gain(c), tensor(c)]
    elif op == "patch_conv":
        normed = "norm_after" if shape.k == 4 else "norm_before"
        weight = tensor(shape.c_out, c, shape.k, shape.k, scale=(c * shape.k**2) ** -0.5)
        width = shape.c_out if shape.k == 4 else c
        tensors = [x, weight, tensor(shape.c_out), gain(width), tensor(width)]
        return Problem(op, tensors, lambda f, *t, **kw: f(*t[:3], **{normed: (t[3], t[4])}, **kw))
    else:
        drawn = testing.make(op, n, h, w, c, seed=seed)
        names = list(drawn.tensors)
        tensors = list(drawn.to(dtype, False, device=device).tensors.values())

        def call(f: Callable[..., Tensor], *t: Tensor, **kw: Any) -> Tensor:
            return testing.Problem(op, dict(zip(names, t, strict=True)), drawn.options).call(f, **kw)

        return Problem(op, tensors, call)
    return Problem(op, tensors, lambda f, *t, **kw: f(*t, **kw))


def work(op: str, shape: Shape, width: int, *, backward: bool) -> Work:
    """Floor of the op on this shape, `width` bytes an element."""
    rows = shape.n * shape.h * shape.w
    if op == "patch_conv":
        rows //= shape.k**2
    if op == "sparse_dwconv":
        rows = shape.n * int(49 * KEEP) * (shape.h // 7) ** 2
    return op_work(op, rows, shape.c, width, backward=backward, c_out=shape.c_out, k=shape.k)
