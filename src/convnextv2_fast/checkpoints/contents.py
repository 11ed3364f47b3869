"""What a state dict holds, in words: the name of its size, its input channels, its head, its decoder."""

from __future__ import annotations

from dataclasses import dataclass

from ..models.convnextv2 import SIZES
from .containers import StateDict
from .convert import Canonical, architecture, canonicalise

STEM = "downsample_layers.0.0.weight"  # canonical names, as those below
_HEAD, _PREDICTION = "head.weight", "pred.weight"


@dataclass(frozen=True)
class Contents:
    """Of a ConvNeXt V2, complete or not."""

    format: str
    depths: tuple[int, ...]  # blocks of each stage
    dims: tuple[int, ...]  # channels of each stage
    size: str | None  # "convnextv2_tiny"; None: depths and dims are no released model's
    in_chans: int | None  # None: it has no stem
    classes: int | None  # of its head; None: it has none
    decoder: bool  # FCMAE's

    def __str__(self) -> str:
        name = self.size or f"a ConvNeXt V2 with depths {self.depths} and dims {self.dims}"
        head = "no head" if self.classes is None else f"a head for {self.classes} classes"
        channels = "no stem" if self.in_chans is None else f"{self.in_chans} input channels"
        return f"{name}, {channels}, {'an FCMAE decoder' if self.decoder else head}"


def contents(found: Canonical) -> Contents:
    """Of a state dict that was recognised."""
    depths, dims = architecture(found.tensors)
    names = {(tuple(d), tuple(c)): f"convnextv2_{size}" for size, (d, c) in SIZES.items()}
    stem, head = found.tensors.get(STEM), found.tensors.get(_HEAD)
    return Contents(
        format=found.format.name,
        depths=depths,
        dims=dims,
        size=names.get((depths, dims)),
        in_chans=None if stem is None else stem.shape[1],
        classes=None if head is None else head.shape[0],
        decoder=_PREDICTION in found.tensors,
    )


def describe(state: StateDict) -> Contents:
    """Of a state dict in any known format.

    Raises:
        CheckpointError: it is no ConvNeXt V2.
    """
    return contents(canonicalise(state.tensors, what=state.what))
