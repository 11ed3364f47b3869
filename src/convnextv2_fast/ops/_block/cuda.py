"""The whole block on NVIDIA GPUs, as one operator for each direction: csrc/torch/block_cuda.cpp calls the kernels of
csrc/cuda and the framework's matrix products one after the other. It saves what Python, autograd and the allocator take
between a dozen operators, and some of the launches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...constants import constant
from ...spec import Implementation, Spec
from .._dwconv.cuda import notes as dwconv_notes
from .._dwconv.cuda import uses_mma
from .._dwconv_layer_norm.cuda import CUDA as DWCONV_LAYER_NORM
from .._mlp_grn.call import scaled
from .._mlp_grn.cuda import CUDA as MLP_GRN
from .._shared import cuda
from .._shared.checks import any_needs_grad, as_matrix, autocast_dtype, check_params, in_one_dtype, statistics_dtype
from .._shared.groups import Groups
from .._shared.sites import Sites
from . import composed, operators
from .autograd import Block, Options
from .call import BlockCall, BlockWeights, check_weights

_HALVES = {"dwconv_layer_norm": DWCONV_LAYER_NORM, "mlp_grn": MLP_GRN}


def run(call: BlockCall) -> Tensor:
    x, cast = call.x, autocast_dtype(call.x)
    residual = None
    if cast is not None and cast != x.dtype:
        wide = torch.promote_types(cast, x.dtype)
        x = x.to(cast)
        residual = None if wide == cast else call.x.to(wide).contiguous()
    x = x.contiguous()
    row_scale = None if call.row_scale is None else call.row_scale(x)
    if row_scale is not None:
        if row_scale.requires_grad:  # a gradient that the operator does not have
            return composed.run(call._replace(row_scale=lambda _: row_scale))
        row_scale = row_scale.to(statistics_dtype(row_scale)).contiguous()
    weights = _weights(call.weights)
    try:
        if call.layout is None and call.rows_per_group is None and not torch.compiler.is_compiling():
            return _apply_to_planes(call, x, *weights, residual, row_scale)
        sites, groups = Sites.of(x, call.layout), Groups.of("block", x, call.rows_per_group)
        eps = constant(call.ln_eps), constant(call.grn_eps)
        options = Options(*eps, uses_mma(x, sites.site_map), sites, groups)
        return apply(options, x, *weights, residual, row_scale)
    except ValueError:
        _check(call, x, weights)  # says more; looked at only now, for speed
        raise


def _apply_to_planes(call: BlockCall, x: Tensor, *args: Any) -> Tensor:
    """The operators on `[N, C, H, W]`, as plans call them: activation checkpointing compares what the first call of a
    block, which has no plan yet, saves with what a later one does."""
    *weights, residual, row_scale = args
    residual = None if residual is None else residual.permute(0, 3, 1, 2)
    options = Options(call.ln_eps, call.grn_eps, uses_mma(x, None), None, None)
    return apply(options, x.permute(0, 3, 1, 2), *weights, residual, row_scale).permute(0, 2, 3, 1)


def apply(options: Options, x: Tensor, *args: Any) -> Tensor:
    """Runs the operators, with autograd only if a gradient is needed. `args`: :class:`BlockWeights` without the layer
    scale, residual, row_scale."""
    if any_needs_grad(x, *args):
        y: Tensor = Block.apply(options, x, *args)
        return y
    return operators.forward(x, *args, *options.arguments)


def _weights(w: BlockWeights) -> tuple[Any, ...]:
    """The parameters as the operators take them, contiguous, with the layer scale folded in."""
    *weights, layer_scale = w
    if layer_scale is not None:
        weights[8:] = scaled(as_matrix(w.w2), w.b2, layer_scale)
    if w.ln_bias.dtype != w.ln_weight.dtype or (w.bias is not None and w.bias.dtype != w.ln_weight.dtype):
        weights[1:4] = in_one_dtype(*w[1:4])
    if w.gamma is None:  # GRN at zero is the identity
        weights[6] = weights[7] = torch.zeros_like(w.b1, requires_grad=False)
    return tuple([p if p is None or p.is_contiguous() else p.contiguous() for p in weights])


def _check(call: BlockCall, x: Tensor, weights: tuple[Any, ...]) -> None:
    matrices: list[Any] = [as_matrix(p) if i in (4, 8) else p for i, p in enumerate(weights)]
    check_weights(*[*matrices, call.weights.layer_scale])
    check_params("block", x, **call.weights._asdict())


def reasons(spec: Spec) -> list[str]:
    """Why one operator for each direction cannot stand for the two ops, a sentence each."""
    found = cuda.reasons(spec) + composed.why_not_together("cuda", _HALVES)
    if "parameters in float64" in spec.extras:
        found.append("it does not take parameters in float64")
    return found


def notes(spec: Spec) -> list[str]:
    """The lines of `explain` that say which kernels run."""
    return dwconv_notes(spec)


CUDA = Implementation("cuda", run, reasons, notes=notes)
