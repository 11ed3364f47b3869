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

from .. import fusion
from ..fused_modules import run_block
from ..fusion import Known, Pair, Parts
from ..models.utils import drop_path_scale
from ._swap import Swap, find_pair, is_accelerated, original_class, run

_NAMES = {"dwconv", "norm", "pwconv1", "act", "pwconv2", "drop_path"}  # and grn in V2


def is_block(m: nn.Module) -> bool:
    """Whether a module has the class name and the sub-modules of upstream's Block."""
    names = set(m._modules)
    return type(m).__name__ == "Block" and names - {"grn"} == _NAMES


def parts(block: Any) -> Parts:
    """The block's modules."""
    grn = getattr(block, "grn", None)
    return Parts(
        Known((type(block.norm),), (type(grn),), (type(block.drop_path),), row_scale),
        conv=block.dwconv,
        norm=block.norm,
        fc1=block.pwconv1,
        act=block.act,
        grn=grn,
        fc2=block.pwconv2,
        drop_path=block.drop_path,
        layer_scale=None if grn is not None else getattr(block, "gamma", None),
    )


def row_scale(drop_path: Any, u: Tensor) -> Tensor | None:
    """The factors `[N]` that timm's DropPath, which upstream uses, draws for u `[N, C, H, W]`."""
    if drop_path.drop_prob is None or drop_path.drop_prob == 0.0:
        return None
    return drop_path_scale(u, u.shape[0], drop_path.drop_prob, getattr(drop_path, "scale_by_keep", True))


def block_forward(self: nn.Module, x: Tensor) -> Tensor:
    return run(self, parts(self), x)


def tried_parts(block: nn.Module) -> Parts | str:
    """The block's modules, or the reason why it is left alone; its class is tried out if all of it would be fused."""
    try:
        found = parts(block)
        why = _tried(type(block), block) if len(fusion.inspect(found).ops) == 2 else None
    except Exception as error:  # a class that only looks like upstream's may do anything
        why = f"trying it out failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return found if why is None else why


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
        want, got = small(x) - x, run_block(parts(small), x) - x
        if not torch.allclose(want, got, rtol=1e-6, atol=1e-12):
            error = (want - got).abs().max().item()
            return f"its class looks like upstream's Block but computes something else (by {error:.1e})"
    return None


def is_channels_first(m: nn.Module) -> bool:
    """Whether a module is upstream's LayerNorm of `[N, C, H, W]`."""
    names = set(m._parameters) == {"weight", "bias"} and type(m).__name__ == "LayerNorm"
    return names and getattr(m, "data_format", None) == "channels_first" and hasattr(m, "eps")


def pair(m: nn.Sequential) -> Pair | None:
    """Returns the modules of upstream's stem or downsampling layer; None for other kinds of Sequential."""
    return find_pair(m, is_channels_first)


def patch_conv_forward(self: nn.Sequential, input: Tensor) -> Tensor:
    return run(self, pair(self), input)


@functools.cache
def block_swap(cls: type[nn.Module]) -> Swap:
    """Returns the replacement for one class of blocks."""
    return Swap(cls, block_forward, tried_parts)


PAIR_SWAP = Swap(nn.Sequential, patch_conv_forward, pair)
