"""What inspection has found of a block that runs as one operator for each direction, kept until something changes.

To inspect a block in every call takes longer than to call its operator. So the finding is kept for as long as the block
lives, with all that it depends on: the modules (:class:`Unchanged`), what was asked for of :mod:`dispatch`, the dtype
and the device.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from operator import attrgetter
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from . import dispatch, plain
from .fusion import Parts
from .layouts import SparseTensor
from .ops._block import cuda as block_cuda
from .ops._block import operators
from .ops._block.autograd import Block, Options
from .ops._dwconv.cuda import uses_mma
from .ops._shared import cuda
from .ops._shared.checks import autocast_dtype, statistics_dtype
from .ops._shared.groups import Groups
from .ops._shared.sites import Sites
from .unchanged import Unchanged

Maps = TypeVar("Maps", Tensor, SparseTensor)
# A plan refers to what its block holds, never to the block.
_plans: weakref.WeakKeyDictionary[nn.Module, Plan] = weakref.WeakKeyDictionary()
_requires_grad, _dtype = attrgetter("requires_grad"), attrgetter("dtype")
_forward = operators.forward._op  # what calling the operator calls
_any_autocast = torch._C._is_any_autocast_enabled  # without naming a device, which takes longer than the answer


def _autocast_dtype(kind: str) -> torch.dtype | None:
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def can_tell(module: nn.Module, parts: Iterable[Any], weights: Iterable[Tensor | None]) -> bool:
    """Whether :class:`Unchanged` sees all changes of a module of these parts and weights: every part is registered in
    it, and no weight is a single number, which may equal another."""
    registered = {*module.modules()}
    found = [part for part in parts if part is not None]
    return all(part in registered for part in found) and all(w is None or w.numel() != 1 for w in weights)


class Kept:
    """What a module of these weights was found with, for activations like x. Plans of all kinds of modules are made of
    it."""

    def __init__(self, module: nn.Module, weights: tuple[Any, ...], x: Tensor) -> None:
        self.unchanged, self.weights = Unchanged(module), weights
        self.dtype, self.device, self.kind = x.dtype, x.get_device(), x.device.type
        self.param_dtype, self.cast = weights[0].dtype, autocast_dtype(x)
        self.asked, self.registered, self.dwconv = dispatch.asked(), dispatch.registered(), cuda.DWCONV

    def fits(self, module: nn.Module, x: Tensor) -> bool:
        """Whether the plan still is that of its module, for activations x."""
        return (
            x.dtype is self.dtype
            and x.get_device() == self.device
            and self.weights[0].dtype is self.param_dtype
            and (_autocast_dtype(self.kind) if _any_autocast() else None) is self.cast
            and dispatch.asked() == self.asked
            and plain.why(self.kind) is None
            and not _has_any_global_hook()
            and dispatch.registered() == self.registered
            and cuda.DWCONV is self.dwconv
            and self.unchanged.holds(module)
        )

    def records(self, x: Tensor) -> bool:
        """Whether autograd must record what is done with x and the weights."""
        return torch.is_grad_enabled() and (x.requires_grad or any(map(_requires_grad, self.weights)))


class Plan(Kept):
    """How a block of these parts runs, on rows x like these."""

    def __init__(
        self, block: nn.Module, p: Parts, weights: tuple[Any, ...], eps: tuple[float, float], x: Tensor
    ) -> None:
        super().__init__(block, weights, x)
        self.eps, self.mma = eps, uses_mma(x, None)
        drops = p.drop_path.training and type(p.drop_path) is not nn.Identity
        self.drop_path, self.row_scale = p.drop_path, p.known.row_scale if drops else None
        self.grn, self.rows_per_group = p.grn, p.rows_per_group
        self._dtypes = tuple(map(_dtype, self._present()))

    def _present(self) -> list[Tensor]:
        return [w for w in self.weights if w is not None]

    def takes_its_weights(self) -> bool:
        """Whether the weights are as they were when the plan was made, but for their values. The operator asks, too,
        but once drop path is drawn, nobody must have to draw it again."""
        present = self._present()
        return tuple(map(_dtype, present)) == self._dtypes and all(map(Tensor.is_contiguous, present))


def keep(block: nn.Module, p: Parts, weights: tuple[Any, ...], eps: tuple[float, float], x: Tensor) -> None:
    """Makes the plan of a block whose parts may run as the op `block`, if that is one operator for rows x."""
    cast = autocast_dtype(x)
    if (
        x.device.type != cuda.DEVICE
        or torch.compiler.is_compiling()
        or p.layer_scale is not None
        or (cast is not None and cast is not x.dtype)
        or type(x) is not Tensor
        or any(w is None or not w.is_contiguous() for w in weights)
        or not can_tell(block, (*p[1:8], *p.drops, *(w[0] for w in (*p.first_wrappers, *p.second_wrappers))), weights)
        or len({w.dtype for w in weights[1:4]}) != 1
    ):
        return
    if dispatch.choose(dispatch.spec_of("block", x, *weights)) is block_cuda.CUDA:
        _plans[block] = Plan(block, p, weights, eps, x)


def run(block: nn.Module, x: Maps) -> Maps | None:
    """Runs a block by its plan; None if it has none that fits."""
    if torch.compiler.is_compiling():
        return None
    plan = _plans.get(block)
    if plan is None:
        return None
    rows: Any = x.F if type(x) is SparseTensor else x
    if type(rows) is not Tensor or rows.ndim != (4 if rows is x else 2):  # the modules say what is wrong
        return None
    if not plan.fits(block, rows):
        _plans.pop(block, None)
        return None
    if plan.row_scale is not None and not plan.takes_its_weights():
        _plans.pop(block, None)
        return None
    row_scale = None if plan.row_scale is None else plan.row_scale(plan.drop_path, x)
    if row_scale is not None:
        row_scale = row_scale.to(statistics_dtype(row_scale)).contiguous()
    try:
        if rows is not x:
            return _run_sites(plan, x, row_scale)
        if not rows.is_contiguous(memory_format=torch.channels_last):
            rows = rows.contiguous(memory_format=torch.channels_last)
        if not plan.records(rows):
            return _forward(rows, *plan.weights, None, row_scale, *plan.eps, plan.mma, True)
        planes: Any = Block.apply(Options(*plan.eps, plan.mma, None, None), rows, *plan.weights, None, row_scale)
        return planes
    except ValueError:  # the block's modules say better what does not fit
        _plans.pop(block, None)
        return None


def _run_sites(plan: Plan, x: Any, row_scale: Tensor | None) -> Any:
    rows, sites = x.F.contiguous(), Sites.of(x.F, x.layout)
    mma = plan.mma and sites.site_map is None
    rows_per_group = None if plan.rows_per_group is None else plan.rows_per_group(plan.grn, x)
    options = Options(*plan.eps, mma, sites, Groups.of("block", rows, rows_per_group))
    return x.replace(block_cuda.apply(options, rows, *plan.weights, None, row_scale))
