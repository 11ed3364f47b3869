"""Whole models to measure and to check: seeded weights with nothing at zero, and images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..models import convnextv2, fcmae
from ..models.convnextv2 import SIZES
from ..testing import randomise

NAMES = (*SIZES, *(f"fcmae-{size}" for size in SIZES))
_SEED = 0


def build(name: str, **options: Any) -> nn.Module:
    """The model `name` (of :data:`NAMES`) on the CPU in float32; the caller's random state is left alone.

    FCMAE takes its small initialisation: upstream's is so large that float16 would overflow."""
    size = name.removeprefix("fcmae-")
    if size != name:
        options.setdefault("init", "std02")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = getattr(convnextv2 if size == name else fcmae, f"convnextv2_{size}")(**options)
    return randomise(model, _SEED)


def images(batch: int, size: int) -> Tensor:
    """Normal noise `[batch, 3, size, size]`, the same at every call."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(_SEED))
