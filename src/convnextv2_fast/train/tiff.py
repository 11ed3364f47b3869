"""TIFF files beyond Pillow's modes: any number of bands, any type of values. The package tifffile reads most."""

from __future__ import annotations

import os
from typing import Any

from ..errors import TrainingError
from .bands import Range, scaled, spread

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # little- and big-endian, the last two of BigTIFF
BITS, PHOTOMETRIC, SAMPLES, EXTRA, FORMAT = 258, 262, 277, 338, 339  # tags
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2  # values of the tag PHOTOMETRIC
ALPHA = (1, 2)  # of the tag EXTRA: opacity, premultiplied or not; others are bands of any meaning
UNSIGNED = 1  # of the tag FORMAT
DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # modes of Pillow's with more than 8 bits


def is_tiff(file: Any) -> bool:
    """Whether a path, or an open file (which is left at its start), begins as a TIFF does."""
    if isinstance(file, str | os.PathLike):
        with open(file, "rb") as opened:
            return opened.read(4) in MAGIC
    file.seek(0)
    head = file.read(4)
    file.seek(0)
    return head in MAGIC


def decode(file: Any, channels: int, value_range: Range) -> Any:
    """A Pillow image of 8 bits, or a float32 tensor `[channels, H, W]` between 0 and 1. None for an ordinary picture,
    which Pillow reads as a whole into a mode of 8 bits.

    Raises:
        TrainingError: bands or values that cannot be used; or tifffile is needed, and not installed.
    """
    import numpy
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            tags: Any = getattr(image, "tag_v2", {})
            depth, unsigned = max(tags.get(BITS, (1,))), max(tags.get(FORMAT, (UNSIGNED,))) == UNSIGNED
            declared = all(kind in ALPHA for kind in tags.get(EXTRA, ()))
            colours = tags.get(PHOTOMETRIC, BLACK_IS_ZERO) >= RGB and channels in (1, 3)  # without what else there is
            if depth <= 8 and unsigned and (declared or colours):
                return None
            if tags.get(SAMPLES, 1) == 1 and image.mode in DEEP:
                values = numpy.asarray(image)[None]
                if image.mode == "I" and unsigned and depth == 32:
                    values = values.view("uint32")  # Pillow takes all of them as signed
                return _finished(values, depth, tags.get(PHOTOMETRIC), False, channels, value_range)
    except UnidentifiedImageError:  # no mode of Pillow's
        pass
    return _by_tifffile(file, channels, value_range)


def _by_tifffile(file: Any, channels: int, value_range: Range) -> Any:
    """The first page, as Pillow's."""
    import numpy

    try:
        import tifffile
    except ImportError as error:
        raise TrainingError(
            "a TIFF with bands or values that Pillow does not read: install tifffile: pip install tifffile"
        ) from error
    if not isinstance(file, str | os.PathLike):
        file.seek(0)
    with tifffile.TiffFile(file) as opened:
        page = opened.pages.first
        values, axes, bits = page.asarray(), page.axes, page.bitspersample
        photometric, extra = page.photometric, [int(kind) for kind in page.extrasamples]
    if photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB):
        name = getattr(photometric, "name", photometric)
        raise TrainingError(f"a TIFF of {name} with {bits} bits; save it as grey or RGB, or with 8 bits")
    if axes not in ("YX", "YXS", "SYX"):
        raise TrainingError(f"a TIFF with axes {axes}; it must have rows, columns and bands (YX, YXS or SYX)")
    values = values[None] if axes == "YX" else values if axes == "SYX" else numpy.moveaxis(values, -1, 0)
    if photometric == RGB and channels in (1, 3):
        values, extra = values[:3], []
    return _finished(values, bits, photometric, bool(extra) and extra[-1] in ALPHA, channels, value_range)


def _finished(values: Any, bits: int, photometric: Any, alpha: bool, channels: int, value_range: Range) -> Any:
    """Of values `[B, H, W]`."""
    from PIL import Image

    number = len(values)
    eight = bits == 8 and values.dtype.kind == "u"
    # RGBX: a mode whose fourth band is no opacity, by which resizing would multiply the others
    mode = {1: "L", 3: "RGB", 4: "RGBX"}.get(number)
    if eight and mode and photometric != WHITE_IS_ZERO and number == channels:
        return Image.frombytes(mode, values.shape[:0:-1], values.transpose(1, 2, 0).tobytes())
    what = f"TIFF of {values.dtype}"
    bands = scaled(values, bits, None if eight else value_range, what)
    bands = 1 - bands if photometric == WHITE_IS_ZERO else bands
    return spread(bands, channels, what, photometric == RGB, alpha)
