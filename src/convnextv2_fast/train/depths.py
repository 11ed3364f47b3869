"""How many bits a sample has in a file, where Pillow's mode does not tell: some plugins shift or stretch values."""

from __future__ import annotations

from typing import Any

_HEAD = 1 << 16  # bytes of a file in which its description is looked for
_SIZ, _DEPTH = b"\xff\x4f\xff\x51", 42  # begins a JPEG 2000 stream; from there to the depth of its first component
_SIGNED = 0x80  # a bit of that depth


def more_than_8(image: Any) -> bool:
    """Whether the file of a Pillow image that was not loaded yet has more bits than its mode, which has 8."""
    if any(";16" in str(tile[3]) or tile[0] == "SGI16" or "BC6H" in str(tile[3]) for tile in image.tile):
        return True  # PNG, SGI, DDS
    if image.format == "PPM":
        return _largest(image) > 255
    if image.format == "JPEG2000":
        depth, signed = _jpeg2000(image)
        return depth > 8 or signed
    if image.format == "AVIF":
        _, found, rest = _head(image).partition(b"av1C")
        return bool(found) and len(rest) > 2 and bool(rest[2] & 0x40)  # high_bitdepth
    return False


def grey(image: Any) -> tuple[Any, int]:
    """A Pillow image of a grey mode with more than 8 bits as in its file: NumPy values `[H, W]`, and the value of white
    if they are unsigned integers of up to 16 bits.

    Raises:
        ValueError: the file is signed, and Pillow has shifted its values.
    """
    import numpy

    depth, signed = _jpeg2000(image) if image.format == "JPEG2000" else (0, False)
    if signed:
        raise ValueError("a JPEG2000 with signed values, which Pillow shifts; save it as TIFF")
    largest = _largest(image) if image.format == "PPM" and image.mode == "I" else 65535
    values = numpy.asarray(image)
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # Pillow gives their 16 bits as 32
        values = values.astype("uint16")
    if largest != 65535:  # Pillow has stretched them to 16 bits
        values = numpy.rint(values * (largest / 65535)).astype("uint16")
    if 8 < depth < 16:  # Pillow has shifted them up
        values, largest = values >> (16 - depth), 2**depth - 1
    return values, largest


def _largest(image: Any) -> int:
    """The value that stands for white in a PGM or PPM file."""
    decoder, *_, arguments = image.tile[0]
    if decoder.startswith("ppm"):
        return int(arguments[1])
    return 65535 if arguments == "I;16B" else 255


def _jpeg2000(image: Any) -> tuple[int, bool]:
    """Bits of the first component, and whether it is signed."""
    head = _head(image)
    place = head.find(_SIZ)
    if place < 0 or len(head) <= place + _DEPTH:
        return 8, False
    described = head[place + _DEPTH]
    return (described & ~_SIGNED) + 1, bool(described & _SIGNED)


def _head(image: Any) -> bytes:
    place = image.fp.tell()
    image.fp.seek(0)
    head: bytes = image.fp.read(_HEAD)
    image.fp.seek(place)
    return head
