"""The classes of facebookresearch/ConvNeXt-V2, and of ConvNeXt (V1), wherever their files are.

They have no package, so they are known by structure: a class `Block` with the modules of upstream's. What it computes,
and what its LayerNorm and GRN compute, is judged by :mod:`._judge`: their code may read nothing but these modules and
plain values, and a trial shows that the result is upstream's.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..changes import accept_forward
from ..fusion import Known, Pair, Parts
from ..models import utils
from . import _trials
from ._drop_paths import row_scale, scale_of
from ._judge import Judge
from ._swap import Accelerated, Swap, find_pair, run

_NAMES = {*_trials.CHILDREN} - {"grn"}  # and grn in V2
BLOCKS = Judge(_trials.why_not_block, frozenset((*_trials.CHILDREN, "gamma")))
NORMS = Judge(_trials.why_not_norm, frozenset(("weight", "bias")), always=("data_format", "eps"))
GRNS = Judge(_trials.why_not_grn, frozenset(("gamma", "beta")), always=("eps",))
_KNOWN_NORMS = (nn.LayerNorm, utils.LayerNorm)
_KNOWN_GRNS = (utils.GRN, type(None))


def is_block(m: nn.Module) -> bool:
    """Whether a module has the class name and the sub-modules of upstream's Block."""
    names = set(m._modules)
    return type(m).__name__ == "Block" and names - {"grn"} == _NAMES


def parts(block: Any) -> Parts | str:
    """The block's modules as they are now, or the reason why the block runs its own code."""
    m = block._modules
    for name in _NAMES:
        if m.get(name) is None:
            return f"it has no module {name}"
    cls, grn = _class(block), m.get("grn")
    gamma, gamma_is = None, "absent"
    if BLOCKS.reads(cls, "gamma"):
        gamma = getattr(block, "gamma", None)
        gamma_is = "there" if gamma is not None else "none" if hasattr(block, "gamma") else "absent"
    why = BLOCKS.why_not(block, cls, ("there" if grn is not None else "none" if "grn" in m else "absent", gamma_is))
    if why is not None:
        return f"its class looks like upstream's Block but {why}"
    if gamma is not None and (not isinstance(gamma, Tensor) or gamma.ndim != 1):
        return "its gamma is no vector"
    norm, drop_path = m["norm"], m["drop_path"]
    norms, first_why = _judged(norm, _KNOWN_NORMS, NORMS, "the norm")
    grns, second_why = _judged(grn, _KNOWN_GRNS, GRNS, "GRN")
    drop_paths = (nn.Identity,) if scale_of(type(drop_path)) is None else (nn.Identity, type(drop_path))
    return Parts(
        Known(norms, grns, drop_paths, row_scale),
        conv=m["dwconv"],
        norm=norm,
        fc1=m["pwconv1"],
        act=m["act"],
        grn=grn,
        fc2=m["pwconv2"],
        drop_path=drop_path,
        layer_scale=gamma,
        first_why=first_why,
        second_why=second_why,
    )


def _class(m: nn.Module) -> type[nn.Module]:
    cls = type(m)
    return cls.accelerated_class if issubclass(cls, Accelerated) else cls


def _judged(m: Any, known: tuple[type, ...], judge: Judge, name: str) -> tuple[tuple[type, ...], str | None]:
    """Returns the classes that an op may stand for in this module's place, and why not for this one."""
    cls = type(m)
    if cls in known:
        return known, None
    why = judge.why_not(m, cls) if isinstance(m, nn.Module) else "no module"
    if why is None:
        accept_forward(cls)
    return (cls,), None if why is None else f"{name} is a {cls.__name__}: {why}"


def block_forward(self: nn.Module, x: Tensor) -> Tensor:
    return run(self, parts(self), x)


def is_channels_first(m: nn.Module) -> bool:
    """Whether a module looks like upstream's LayerNorm of `[N, C, H, W]`."""
    names = set(m._parameters) == {"weight", "bias"} and type(m).__name__ == "LayerNorm"
    return names and getattr(m, "data_format", None) == "channels_first" and hasattr(m, "eps")


def pair(m: nn.Sequential) -> Pair | str | None:
    """Returns the modules of upstream's stem or downsampling layer, or the reason why it runs its own code; None for
    other kinds of Sequential."""
    found = find_pair(m, is_channels_first)
    why = None if found is None else _judged(found.norm, _KNOWN_NORMS, NORMS, "the norm")[1]
    return found if why is None else why


def patch_conv_forward(self: nn.Sequential, input: Tensor) -> Tensor:
    return run(self, pair(self), input)


PAIR_SWAP = Swap(nn.Sequential, patch_conv_forward, pair)
