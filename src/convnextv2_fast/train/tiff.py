"""TIFF files beyond Pillow's modes: any number of bands, any type of values. The package tifffile reads most."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from typing import Any

from ..errors import TrainingError
from .bands import Range, scaled, spread

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # little- and big-endian, the last two of BigTIFF
SUBFILE, WIDTH, HEIGHT, BITS, PHOTOMETRIC, ORIENTATION, SAMPLES, EXTRA, FORMAT = (  # tags
    *(254, 256, 257, 258, 262, 274, 277, 338, 339),
)
TRANSPARENCY_MASK = 4  # a bit of the tag SUBFILE
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE = 0, 1, 2, 3  # values of the tag PHOTOMETRIC
PILLOWS_SAMPLES = 6  # the most that Pillow takes; of a file with more it writes an error to its log
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
    which Pillow reads as a whole into a mode of 8 bits. The first page is taken, and turned as its orientation says.

    Args:
        file: an open file. Pillow given a path turns some pictures wrongly.
    Raises:
        TrainingError: bands, pages or values that cannot be used; or a package is needed, and not installed.
    """
    import numpy
    from PIL import Image, UnidentifiedImageError

    pages = _pages(file)
    tags: Any = next(pages, {})
    samples, depth = tags.get(SAMPLES, 1), max(tags.get(BITS, (1,)))
    _refuse_pages(tags, pages, channels)
    if samples > PILLOWS_SAMPLES:
        return _by_tifffile(file, channels, value_range)
    unsigned = max(tags.get(FORMAT, (UNSIGNED,))) == UNSIGNED
    try:
        with Image.open(file) as image:
            declared = all(kind in ALPHA for kind in tags.get(EXTRA, ()))
            colours = tags.get(PHOTOMETRIC, BLACK_IS_ZERO) >= RGB and channels in (1, 3)  # without what else there is
            if depth <= 8 and unsigned and (declared or colours):
                return None
            if samples == 1 and image.mode in DEEP:
                values = numpy.asarray(image)[None]
                if image.mode == "I" and unsigned and depth == 32:
                    values = values.view("uint32")  # Pillow takes all of them as signed
                return _finished(values, depth, tags.get(PHOTOMETRIC), False, channels, value_range)
    except UnidentifiedImageError:  # no mode of Pillow's
        pass
    return _by_tifffile(file, channels, value_range)


def _pages(file: Any) -> Iterator[Any]:
    """The tags of every page by number, as far as they can be read."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    file.seek(0)
    head = file.read(8)
    head += file.read(8) if 43 in head[2:4] else b""  # BigTIFF
    with contextlib.suppress(OSError, OverflowError, SyntaxError, ValueError, struct.error):
        place, seen = ImageFileDirectory_v2(head).next, set()
        while place and place not in seen:
            seen.add(place)
            tags = ImageFileDirectory_v2(head)
            file.seek(place)
            tags.load(file)
            yield tags
            place = tags.next


def _refuse_pages(first: Any, others: Iterator[Any], channels: int) -> None:
    """Some programs write one page for each band, and only the first page would be read. Pages of one bit are scans.

    Raises:
        TrainingError: the model takes more bands than the first page has, and another page is as large.
    """
    bands = 3 if first.get(PHOTOMETRIC) == PALETTE else first.get(SAMPLES, 1)
    if channels <= bands or max(first.get(BITS, (1,))) == 1:
        return
    size = (first.get(WIDTH), first.get(HEIGHT))
    for page in others:
        if (page.get(WIDTH), page.get(HEIGHT)) == size and not page.get(SUBFILE, 0) & TRANSPARENCY_MASK:
            number = "1 band" if bands == 1 else f"{bands} bands"
            raise TrainingError(
                f"a TIFF of several pages of {number} each, and the model takes {channels}: they may be its bands, or "
                "a series; save bands in one page, or keep only the page that is meant"
            )


def _turned(values: Any, orientation: int) -> Any:
    """`[B, H, W]` turned and mirrored as the tag ORIENTATION says, like Pillow's `exif_transpose`."""
    import numpy

    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(1, 2)
    upside_down, mirrored = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return numpy.ascontiguousarray(values[:, :: -1 if upside_down else 1, :: -1 if mirrored else 1])


def _by_tifffile(file: Any, channels: int, value_range: Range) -> Any:
    """The first page, as Pillow's."""
    import numpy

    try:
        import tifffile
    except ImportError as error:
        raise TrainingError(
            "a TIFF with bands or values that Pillow does not read: install tifffile: pip install tifffile"
        ) from error
    file.seek(0)
    with tifffile.TiffFile(file) as opened:
        page = opened.pages.first
        values, axes, bits = _values(page), page.axes, page.bitspersample
        photometric, extra = page.photometric, [int(kind) for kind in page.extrasamples]
        orientation = page.tags.get(ORIENTATION)
    if photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB):
        name = getattr(photometric, "name", photometric)
        raise TrainingError(f"a TIFF of {name} with {bits} bits; save it as grey or RGB, or with 8 bits")
    if axes not in ("YX", "YXS", "SYX"):
        raise TrainingError(f"a TIFF with axes {axes}; it must have rows, columns and bands (YX, YXS or SYX)")
    values = values[None] if axes == "YX" else values if axes == "SYX" else numpy.moveaxis(values, -1, 0)
    values = _turned(values, 1 if orientation is None else int(orientation.value))
    if photometric == RGB and channels in (1, 3):
        values, extra = values[:3], []
    return _finished(values, bits, photometric, bool(extra) and extra[-1] in ALPHA, channels, value_range)


def _values(page: Any) -> Any:
    """The pixels of a page of tifffile's.

    Raises:
        TrainingError: they are compressed in a way for which tifffile needs imagecodecs, which is not installed.
    """
    try:
        return page.asarray()
    except (ImportError, ValueError) as error:
        if "imagecodecs" not in str(error):
            raise
        name = getattr(page.compression, "name", page.compression)
        raise TrainingError(
            f"a TIFF with compression {name}, for which tifffile needs imagecodecs: pip install imagecodecs"
        ) from error


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
    if photometric == WHITE_IS_ZERO:  # which is said of grey, and not of the bands that follow
        bands[0] = 1 - bands[0]
    return spread(bands, channels, what, photometric == RGB, alpha)
