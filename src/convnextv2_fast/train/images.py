"""One picture from a file, with as many channels as the model takes.

A picture of 8 bits stays a Pillow image. One of more bits, or with bands that no mode of Pillow has, becomes a float32
tensor `[C, H, W]` between 0 and 1, so that nothing is lost. The functions here take both.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints.files import first_line
from ..errors import TrainingError
from . import bands, depths, tiff
from .bands import Range
from .libraries import torchvision_transforms

LONGEST = 50  # sides of an image to each other, when it is resized by the shorter one
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # of Pillow, by channels
EIGHT_BITS = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}


def decode(file: Any, channels: int, value_range: Range = None) -> Any:
    """A picture from a path or an open file, wholly decoded: a Pillow image, or a float32 tensor `[channels, H, W]`.

    Pictures of 8 bits are converted by Pillow; :func:`bands.scaled` says what becomes of the values of others. A file
    may have any number of bands if `channels` is the same.

    Args:
        value_range: the values that stand for 0 and 1 in pictures of more than 8 bits; what lies outside is cut off.
    Raises:
        TrainingError: a mode, a range or a number of bands that cannot be used. The message says what would work.
        Exception: of any other kind, where it is no readable picture.
    """
    from PIL import Image

    if tiff.is_tiff(file):
        if isinstance(file, str | os.PathLike):
            with open(file, "rb") as opened:
                return decode(opened, channels, value_range)
        found = tiff.decode(file, channels, value_range)
        if found is not None:
            return found
    with Image.open(file) as image:
        if image.mode not in EIGHT_BITS:
            return bands.spread(_deep(image, value_range), channels, f"mode {image.mode}")
        if value_range is not None and depths.more_than_8(image):
            raise TrainingError(
                f"a {image.format} of mode {image.mode} with more than 8 bits, of which Pillow keeps the upper 8: "
                "--value_range cannot be applied to it; save it as TIFF"
            )
        return convert(image, channels)


def read_as(channels: int) -> int:
    """The channels to decode images with, for a model of so many: grey ones are read as RGB, which is what timm's
    colour operations take, and the transforms make them grey."""
    return 3 if channels == 1 else channels


def convert(image: Any, channels: int) -> Any:
    """A Pillow image of 8 bits in the mode that has these channels.

    Raises:
        TrainingError: no mode has as many, or it has other bands than the two of two channels.
    """
    number = len(image.getbands())
    if channels not in (1, 3, 4) and (channels != number or channels not in MODES):
        raise bands.other_number(number, f"mode {image.mode}", channels)
    if image.mode == "La":  # Pillow converts it to no other mode than this
        image = image.convert("LA")
    if image.mode == "LAB":
        image = image.convert("RGB")
    return image.convert(MODES[channels])


def _deep(image: Any, value_range: Range) -> Tensor:
    """A Pillow image of more than 8 bits as `[1, H, W]`."""
    mode = image.mode
    if mode not in tiff.DEEP:
        raise TrainingError(f"mode {mode}: is not supported; save it with 8 or 16 bits a band, or as floats")
    try:
        values, white = depths.grey(image)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    if values.dtype.kind == "u" and value_range is None and values.itemsize == 2:
        value_range = (0, white)
    return bands.scaled(values[None], 8 * values.itemsize, value_range, f"mode {mode}")


def grey(image: Any) -> Any:
    """RGB as one channel."""
    if isinstance(image, Tensor):
        return bands.grey(image)
    return torchvision_transforms().functional.to_grayscale(image, 1)


def to_tensor(image: Any) -> Tensor:
    """`[C, H, W]` between 0 and 1, the end of a transform. What is a tensor has left this range where it was resized,
    as Pillow's do not."""
    if isinstance(image, Tensor):
        return image.clamp(0, 1)
    found: Tensor = torchvision_transforms().functional.to_tensor(image)
    return found


def middle(image: Any) -> Any:
    """The middle of an image that is more than :data:`LONGEST` times as long as wide, any other as it is. What follows
    resizes by the shorter side and cuts the middle out: of a thin line it would make gigabytes to throw away."""
    wide, high = size(image)
    if max(wide, high) <= LONGEST * min(wide, high):
        return image
    width, height = min(wide, LONGEST * high), min(high, LONGEST * wide)
    left, top = (wide - width) // 2, (high - height) // 2
    if isinstance(image, Tensor):
        return image[:, top : top + height, left : left + width]
    return image.crop((left, top, left + width, top + height))


def size(image: Any) -> tuple[int, int]:
    """Width and height in pixels."""
    wide, high = image.shape[:0:-1] if isinstance(image, Tensor) else image.size
    return wide, high


def unreadable(file: Path, error: Exception) -> str:
    """What to say of a file that :func:`decode` could not read."""
    if not file.exists():
        return f"{file}: no such file or folder"
    return f"{file}: cannot be read as an image: {first_line(error)}"
