"""The classes of facebookresearch/ConvNeXt-V2, and of ConvNeXt (V1), wherever their files are.

They have no package, so they are known by structure: a class `Block` with the modules of upstream's. That it also
computes what upstream's computes is tried out once per class, on a small copy with random parameters, at two scales so
that another eps shows.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

from ..models import convnextv2
from ..models.utils import drop_path_scale
from . import _block, _patch_conv
from ._swap import Inspection, Swap, is_accelerated, original_class, original_forward

_NAMES = {"dwconv", "norm", "pwconv1", "act", "pwconv2", "drop_path"}  # and grn in V2


def is_block(m: nn.Module) -> bool:
    """Whether a module has the class name and the sub-modules of upstream's Block. This library's own Block
    does not count: it uses the ops already."""
    names = set(m._modules)
    return type(m).__name__ == "Block" and names - {"grn"} == _NAMES and not isinstance(m, convnextv2.Block)


def parts(block: Any) -> _block.Parts:
    """The block's modules."""
    grn = getattr(block, "grn", None)

    def second(u: Tensor) -> Tensor:
        a = block.act(block.pwconv1(u))
        return block.pwconv2(a if grn is None else grn(a))

    return _block.Parts(
        conv=block.dwconv,
        norm=block.norm,
        norms=(type(block.norm),),
        fc1=block.pwconv1,
        act=block.act,
        activations=(nn.GELU,),
        grn=grn,
        grn_parameters=(None, None) if grn is None else (grn.gamma, grn.beta),
        grn_eps=1e-6 if grn is None else getattr(grn, "eps", 1e-6),
        fc2=block.pwconv2,
        drops=(),
        layer_scale=None if grn is not None else getattr(block, "gamma", None),
        drop_path=block.drop_path,
        drop_paths=(type(block.drop_path),),
        row_scale=row_scale,
        run_first=lambda x: block.norm(block.dwconv(x).permute(0, 2, 3, 1)),
        run_second=second,
    )


def row_scale(drop_path: Any, u: Tensor) -> Tensor | None:
    """The factors `[N]` that timm's DropPath, which upstream uses, draws for u `[N, H, W, C]`."""
    if drop_path.drop_prob is None or drop_path.drop_prob == 0.0:
        return None
    return drop_path_scale(u, u.shape[0], drop_path.drop_prob, getattr(drop_path, "scale_by_keep", True))


def block_forward(self: nn.Module, x: Tensor) -> Tensor:
    return _block.run(parts(self), x)


def inspect_block(block: nn.Module) -> Inspection:
    try:
        found = _block.inspect(parts(block))
        if len(found.ops) < 2:
            return found
        why = _tried(type(block), block)
    except Exception as error:  # a class that only looks like upstream's may do anything
        why = f"trying it out failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return found if why is None else Inspection((), (why,))


_verdicts: dict[tuple[type, ...], str | None] = {}


def _tried(cls: type, block: nn.Module) -> str | None:
    """Says why a class is not upstream's although it looks like it; None if it computes the same. Once per class."""
    key = (cls, *(type(m) for m in block.children()))
    if key not in _verdicts:
        _verdicts[key] = _try_out(block)
    return _verdicts[key]


@torch.no_grad()
def _try_out(block: nn.Module) -> str | None:
    small: Any = copy.deepcopy(block)
    if is_accelerated(small):
        small.__class__ = original_class(small)
    small = small.to_empty(device="cpu").double().eval()
    generator = torch.Generator().manual_seed(0)
    for scale in (1.0, 1e-5):
        for name, p in small.named_parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (scale if name.startswith("pwconv1") else 0.2))
        x = torch.randn(2, small.dwconv.in_channels, 5, 6, generator=generator).double()
        want, got = small(x) - x, _block.run(parts(small), x) - x
        if not torch.allclose(want, got, rtol=1e-6, atol=1e-12):
            error = (want - got).abs().max().item()
            return f"its class looks like upstream's Block but computes something else (by {error:.1e})"
    return None


def pair(m: nn.Module) -> tuple[nn.Module, nn.Module, bool] | None:
    """Returns convolution, LayerNorm, and whether LayerNorm comes first, for upstream's stem or downsampling layer."""
    modules = list(m._modules.values())  # children() leaves out a module's second occurrence
    if len(modules) != 2:
        return None
    a, b = modules
    if a is None or b is None:
        return None
    if type(a) is nn.Conv2d and is_channels_first(b):
        return a, b, False
    return (b, a, True) if is_channels_first(a) and type(b) is nn.Conv2d else None


def is_channels_first(m: nn.Module) -> bool:
    """Whether a module is upstream's LayerNorm of `[N, C, H, W]`."""
    names = set(m._parameters) == {"weight", "bias"} and type(m).__name__ == "LayerNorm"
    return names and getattr(m, "data_format", None) == "channels_first" and hasattr(m, "eps")


def inspect_pair(m: nn.Module) -> Inspection | None:
    found = pair(m)
    return None if found is None else _patch_conv.inspect(*found[:2], (type(found[1]),))


def patch_conv_forward(self: nn.Sequential, input: Tensor) -> Tensor:
    found = pair(self)
    y = None
    if found is not None:
        y = _patch_conv.run(input, *found[:2], (type(found[1]),), norm_first=found[2])
    return original_forward(self, input) if y is None else y


@functools.cache
def block_swap(cls: type[nn.Module]) -> Swap:
    """Returns the replacement for one class of blocks."""
    return Swap(cls, block_forward, inspect_block)


PAIR_SWAP = Swap(nn.Sequential, patch_conv_forward, inspect_pair)
