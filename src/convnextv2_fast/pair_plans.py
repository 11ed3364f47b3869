"""What inspection has found of a stem or downsampling layer that runs as one operator for each direction, kept until
something changes, as :mod:`block_plans` keeps it of blocks."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn

from . import dispatch
from .block_plans import Kept, can_tell
from .fusion import Pair
from .ops._patch_conv import cuda as patch_conv_cuda
from .ops._patch_conv import cuda_autograd
from .ops._patch_conv.cuda_autograd import Options, WholePatchConv
from .ops._patch_conv.gather import Gather
from .ops._shared import cuda

# A plan refers to what its module holds, never to the module.
_plans: weakref.WeakKeyDictionary[nn.Module, Plan] = weakref.WeakKeyDictionary()


class Plan(Kept):
    """How a pair runs, on planes x like these."""

    def __init__(self, module: nn.Module, p: Pair, x: Tensor) -> None:
        self.bias = p.conv.bias
        weights = (p.conv.weight, p.norm.weight, p.norm.bias)
        super().__init__(module, weights if self.bias is None else (*weights, self.bias), x)
        norm, none = weights[1:], (None, None)
        before, after = (norm, none) if p.norm_first else (none, norm)
        self.eps, self.k = p.norm.eps, p.conv.weight.shape[-1]
        self.parameters = (p.conv.weight, self.bias, *before, *after)


def keep(module: nn.Module, p: Pair, x: Tensor) -> None:
    """Makes the plan of a module of these parts, which may run as the op `patch_conv`, if that is one operator for
    planes x."""
    if (
        x.device.type != cuda.DEVICE
        or torch.compiler.is_compiling()
        or type(p.conv) is not nn.Conv2d
        or type(x) is not Tensor
        or p.norm.weight.dtype is not p.norm.bias.dtype
        or p.norm.weight.shape[0] > cuda.WIDEST
        or not can_tell(module, (p.conv, p.norm), (p.conv.weight, p.conv.bias, p.norm.weight, p.norm.bias))
    ):
        return
    plan = Plan(module, p, x)
    rows = x.new_empty((0, 1, 1, x.shape[1]), dtype=plan.cast or x.dtype)  # what the op is asked for
    if dispatch.choose(dispatch.spec_of("patch_conv", rows, *plan.weights)) is patch_conv_cuda.CUDA:
        _plans[module] = plan


def run(module: nn.Module, x: Tensor) -> Tensor | None:
    """Runs a stem or downsampling layer on planes x by its plan; None if it has none that fits."""
    if torch.compiler.is_compiling():
        return None
    plan = _plans.get(module)
    if plan is None or type(x) is not Tensor or x.ndim != 4:  # the modules say what is wrong
        return None
    if not plan.fits(module, x):
        _plans.pop(module, None)
        return None
    (n, _, h, w), k = x.shape, plan.k
    if h < k or w < k:
        return None
    if plan.cast is not None and plan.cast is not x.dtype:
        x = x.to(plan.cast)
    if not x.is_contiguous(memory_format=torch.channels_last):
        x = x.contiguous(memory_format=torch.channels_last)
    gather = Gather(None, n * (h // k) * (w // k), h, w, k)
    try:
        if plan.records(x):
            y: Tensor = WholePatchConv.apply(Options(plan.eps, True, gather), x, *plan.parameters)
            return y
        return cuda_autograd.operators.forward(x, *plan.parameters, plan.eps, True, *gather)
    except ValueError:  # the modules say better what does not fit
        _plans.pop(module, None)
        return None
