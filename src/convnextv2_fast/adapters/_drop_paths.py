"""The drop path classes that blocks written like upstream's may hold, and the factors that each would draw."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..models.utils import DropPath, drop_path_scale
from ._trials import apart

Scale = Callable[[Any, Tensor], Tensor | None]


def _bernoulli(drop_path: Any, u: Tensor) -> Tensor | None:
    """timm's from 0.5 on, and this library's."""
    if not drop_path.drop_prob or not drop_path.training:
        return None
    return drop_path_scale(u, u.shape[0], drop_path.drop_prob, getattr(drop_path, "scale_by_keep", True))


def uniform(drop_path: Any, u: Tensor) -> Tensor | None:
    """The factors `[N]` that transformers' drop path draws for u `[N, C, H, W]`."""
    if drop_path.drop_prob == 0.0 or not drop_path.training:
        return None
    keep = 1 - drop_path.drop_prob
    draws = torch.rand((u.shape[0], 1, 1, 1), dtype=u.dtype, device=u.device)
    return torch.floor(draws + keep).div(keep).view(-1)


def _torchvision(drop_path: Any, u: Tensor) -> Tensor | None:
    """The factors that torchvision's StochasticDepth draws; one for all samples in its mode "batch"."""
    if drop_path.p == 0.0 or not drop_path.training:
        return None
    rows = u.shape[0]
    return drop_path_scale(u, rows if drop_path.mode == "row" else 1, drop_path.p).expand(rows).contiguous()


_KNOWN: dict[tuple[str, str], Scale] = {
    ("timm.layers.drop", "DropPath"): _bernoulli,
    ("torchvision.ops.stochastic_depth", "StochasticDepth"): _torchvision,
    ("transformers.models.convnext.modeling_convnext", "ConvNextDropPath"): uniform,
    ("transformers.models.convnextv2.modeling_convnextv2", "ConvNextV2DropPath"): uniform,
}
_scales: dict[type, Scale] = {DropPath: _bernoulli}


def scale_of(cls: type) -> Scale | None:
    """The function that takes a drop path of this class and maps `[N, C, H, W]`, and returns the factors `[N]`, or None
    where it drops nothing. None for a class that is not known; its modules have to be called."""
    if cls not in _scales:
        scale = _KNOWN.get((cls.__module__, cls.__qualname__))
        if scale is None or getattr(sys.modules.get(cls.__module__), cls.__qualname__, None) is not cls:
            return None  # a class of one's own that bears the name
        if torch.compiler.is_compiling() or not _draws(cls, scale):
            return None
        _scales[cls] = scale
    return _scales[cls]


def row_scale(drop_path: Any, u: Tensor) -> Tensor | None:
    """The factors `[N]` of a drop path of a known class for u `[N, C, H, W]`."""
    scale = scale_of(type(drop_path))
    assert scale is not None
    return scale(drop_path, u)


def _draws(cls: Any, scale: Scale) -> bool:
    """Whether the installed version draws as `scale` does: timm's has changed."""
    with apart():
        u = torch.ones(64, 1, 1, 1, dtype=torch.float64)
        found: list[tuple[Any, Tensor]] = []
        made: nn.Module = cls(0.3, "row") if scale is _torchvision else cls(0.3)
        for run in (lambda: cls.forward(made, u).view(-1), lambda: scale(made, u)):
            torch.default_generator.manual_seed(1)  # torch.manual_seed would seed GPUs too
            found.append((run(), torch.random.get_rng_state()))
    (want, want_state), (got, state) = found
    return torch.allclose(want, got, rtol=1e-12, atol=0.0) and torch.equal(want_state, state)
