"""Pictures of more than 8 bits, or of more bands than Pillow's modes have: as float32 tensors `[C, H, W]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import TrainingError

LUMA = (0.299, 0.587, 0.114)  # Pillow's, of RGB
Range = Sequence[float] | None  # the values that stand for 0 and 1


def scaled(values: Any, bits: int, value_range: Range, what: str) -> Tensor:
    """NumPy values as float32 between 0 and 1.

    Unsigned integers of up to 16 bits are divided by the largest value of their bits. Other integers do not say which
    value is white, so they need `value_range`. Floats are taken as they are if they lie between 0 and 1, and need it
    otherwise.

    Args:
        bits: of a sample in the file, which may be fewer than its type has.
        value_range: what stands for 0 and 1; values outside are cut off. None: see above.
        what: what messages call the picture.
    Raises:
        TrainingError: no range is known, or a value is no number.
    """
    import numpy

    kind = values.dtype.kind
    if kind not in "uif" or not values.size:
        raise TrainingError(f"{what}: {values.size} values of type {values.dtype} are no picture")
    if kind == "f" and not numpy.isfinite(values).all():
        raise TrainingError(f"{what}: holds values that are NaN or infinite; replace them")
    least, most = values.min().item(), values.max().item()
    if value_range is not None:
        low, high = value_range
    elif kind == "u" and bits <= 16:
        low, high = 0, 2**bits - 1
    elif kind == "f" and least >= 0 and most <= 1:
        low, high = 0, 1
    else:
        number = {"f": "floats", "i": "signed integers", "u": "unsigned integers"}[kind]
        raise TrainingError(
            f"{what}: {number} of {bits} bits, here from {least:g} to {most:g}, do not say which values are black and "
            "white. Give both, the same for all images, as in --value_range 0 4095"
        )
    exact = values.dtype.itemsize <= 2 or values.dtype == numpy.float32  # else float32 would round before it subtracts
    wide = (values.astype("float32" if exact else "float64") - low) / (high - low)
    return torch.from_numpy(wide.clip(0, 1).astype("float32", copy=False))


def spread(bands: Tensor, channels: int, what: str, colour: bool = False, alpha: bool = False) -> Tensor:
    """Bands `[B, H, W]` as `[channels, H, W]`: grey for three channels, RGB for one, alpha added or left out.

    Args:
        colour: the first three are red, green and blue.
        alpha: the last one is opacity, which a model of one or three channels does without.
    Raises:
        TrainingError: another number of bands, which are neither grey nor RGB.
    """
    number = len(bands)
    if number == channels:
        return bands
    colours = bands[:-1] if alpha else bands
    if len(colours) != (3 if colour else 1) or channels not in (1, 3, 4):
        raise other_number(number, what, channels)
    if channels == 1:
        return grey(colours)
    colours = colours.expand(3, -1, -1)
    opacity = bands[-1:] if alpha else torch.ones_like(colours[:1])
    return torch.cat([colours, opacity]) if channels == 4 else colours.clone()


def other_number(number: int, what: str, channels: int) -> TrainingError:
    """The error about a picture whose bands are not the model's channels."""
    bands = "1 band" if number == 1 else f"{number} bands"
    return TrainingError(f"{bands} ({what}), and the model takes {channels}; they suit a model of --in_chans {number}")


def grey(image: Tensor) -> Tensor:
    """RGB `[3, H, W]` as `[1, H, W]`. One channel stays as it is."""
    if len(image) == 1:
        return image
    return (image * torch.tensor(LUMA).view(3, 1, 1)).sum(dim=0, keepdim=True)
