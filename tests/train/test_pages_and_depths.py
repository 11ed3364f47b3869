"""Files that say how they are to be read: their depth, their orientation, their pages, which bands are opacity."""

import base64
import logging
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from convnextv2_fast.train import TrainingError, images

tifffile = pytest.importorskip("tifffile")
RNG = np.random.default_rng(0)
ORIENTATION = 274
TWELVE = np.array([[0, 4095], [2048, 1]], np.uint16)
# of TWELVE, in one band and in three, as OpenJPEG writes it; Pillow writes 8 and 16 bits only
JPEG2000 = (
    "/0//UQApAAAAAAACAAAAAgAAAAAAAAAAAAAAAgAAAAIAAAAAAAAAAAABCwEB/1IADAAAAAEAAAQEAAH/XAAEQGD/ZAAlAAFDcmVhdGVkIGJ5IE9wZW5K"
    "UEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAAAYAAH/k9/gHAeYrto8W1//2Q=="
)
JPEG2000_RGB = (
    "/0//UQAvAAAAAAACAAAAAgAAAAAAAAAAAAAAAgAAAAIAAAAAAAAAAAADCwEBCwEBCwEB/1IADAAAAAEBAAQEAAH/XAAEQGD/ZAAlAAFDcmVhdGVkIGJ5"
    "IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAAAaAAH/k9/gHAeYrto8W1+AgP/Z"
)


def tiff(values: np.ndarray, **options) -> BytesIO:
    opened = BytesIO()
    tifffile.imwrite(opened, values, **options)
    return opened


def netpbm(kind: int, largest: int, values: np.ndarray) -> bytes:
    numbers = " ".join(map(str, values.flatten())).encode() if kind < 4 else values.astype(">u2").tobytes()
    return b"P%d 2 2 %d\n" % (kind, largest) + numbers


GREY = {
    "pgm": netpbm(5, 4095, TWELVE),
    "pgm of text": netpbm(2, 4095, TWELVE),
    "pgm of text, 16 bits": netpbm(2, 65535, TWELVE),
    "pgm, 16 bits": netpbm(5, 65535, TWELVE),
    "jpeg 2000": base64.b64decode(JPEG2000),
}


@pytest.mark.parametrize("name", GREY)
def test_a_range_is_of_the_values_in_the_file(name):
    want = torch.from_numpy(TWELVE.astype(np.float32))
    assert torch.allclose(images.decode(BytesIO(GREY[name]), 1, (0, 8190))[0], want / 8190, atol=1e-7)
    white = 65535 if "16 bits" in name else 4095
    assert torch.allclose(images.decode(BytesIO(GREY[name]), 1)[0], want / white, atol=1e-7)


def sgi(compressed: bool) -> bytes:
    head = b"\x01\xda" + bytes([compressed, 2]) + np.array([3, 2, 2, 3], ">u2").tobytes() + bytes(500)
    return head + bytes(2 * 2 * 3 * 2)


COLOURS = {
    "PPM": netpbm(6, 4095, np.stack([TWELVE] * 3, -1)),
    "PPM of text": netpbm(3, 65535, np.stack([TWELVE] * 3, -1)),
    "JPEG2000": base64.b64decode(JPEG2000_RGB),
    "SGI": sgi(False),
}


@pytest.mark.parametrize("name", COLOURS)
def test_a_range_of_values_that_pillow_cuts_to_8_bits(name):
    assert images.decode(BytesIO(COLOURS[name]), 3).mode == "RGB"
    with pytest.raises(
        TrainingError, match=rf"{name.split()[0]} of mode RGB with more than 8 bits, .* save it as TIFF"
    ):
        images.decode(BytesIO(COLOURS[name]), 3, (0, 4095))
    ordinary = netpbm(6, 200, np.zeros(6))  # 8 bits, whatever their largest value
    assert images.decode(BytesIO(ordinary), 3, (0, 4095)).mode == "RGB"


TURNED = {
    "grey, 8 bits": (np.uint8, 1, {"photometric": "minisblack"}),
    "grey, 16 bits": (np.uint16, 1, {"photometric": "minisblack"}),
    "floats": (np.float32, 1, {"photometric": "minisblack"}),
    "signed": (np.int8, 1, {"photometric": "minisblack"}),
    "rgb, 8 bits": (np.uint8, 3, {"photometric": "rgb"}),
    "rgb, 16 bits": (np.uint16, 3, {"photometric": "rgb"}),
    "five bands": (np.uint8, 5, {"photometric": "minisblack", "planarconfig": "contig"}),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", TURNED)
def test_orientation(tmp_path, name, orientation):
    dtype, bands, options = TURNED[name]
    values = (RNG.random((6, 8, bands)) * (1 if dtype == np.float32 else 100)).astype(dtype)
    plain, turned = tmp_path / "plain.tif", tmp_path / "turned.tif"
    stored = values if bands > 1 else values[..., 0]
    tifffile.imwrite(plain, stored, **options)
    tifffile.imwrite(turned, stored, extratags=[(ORIENTATION, 3, 1, orientation, True)], **options)
    methods = [None, *(Image.Transpose(i) for i in (0, 3, 1, 5, 4, 6, 2))]  # as Pillow's exif_transpose has them
    method = methods[orientation - 1]
    want = images.to_tensor(images.decode(plain, bands, (0, 100)))
    if method is not None:
        want = torch.stack(
            [torch.from_numpy(np.array(Image.fromarray(band.numpy()).transpose(method))) for band in want]
        )
    assert torch.equal(images.to_tensor(images.decode(turned, bands, (0, 100))), want)
    assert torch.equal(images.to_tensor(images.decode(BytesIO(turned.read_bytes()), bands, (0, 100))), want)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_pages_that_may_be_bands(dtype, bigtiff):
    pages = RNG.integers(0, 100, (4, 6, 8)).astype(dtype)
    opened = tiff(pages, photometric="minisblack", bigtiff=bigtiff)
    for channels in (3, 4, 5):
        with pytest.raises(TrainingError, match=r"several pages of 1 band each.*save bands in one page") as e:
            images.decode(opened, channels, (0, 99))
        assert len(str(e.value)) < 200
    assert torch.allclose(  # what was asked for is in the first
        images.to_tensor(images.decode(opened, 1, (0, 99))), images.to_tensor(images.decode(tiff(pages[0]), 1, (0, 99)))
    )


def test_pages_that_are_no_bands():
    first = RNG.integers(0, 256, (8, 8), dtype=np.uint8)
    with_preview, scans = BytesIO(), BytesIO()
    with tifffile.TiffWriter(with_preview) as file:
        file.write(first)
        file.write(first[::2, ::2], subfiletype=1)
    bilevel = Image.fromarray(first > 100)
    bilevel.save(scans, "TIFF", save_all=True, append_images=[bilevel])
    assert images.decode(with_preview, 3).mode == images.decode(scans, 3).mode == "RGB"


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_white_is_zero_is_said_of_grey_alone(dtype):
    values = RNG.integers(0, 200, (6, 8, 2)).astype(dtype)
    opened = tiff(values, photometric="miniswhite", extrasamples=["unassalpha"], planarconfig="contig")
    bands = torch.from_numpy(values.astype(np.float32) / np.iinfo(dtype).max).permute(2, 0, 1)
    bands[0] = 1 - bands[0]
    assert torch.allclose(images.decode(opened, 2), bands, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_grey_with_opacity_is_as_with_8_bits(channels):
    values = RNG.integers(0, 256, (6, 8, 2), dtype=np.uint8)
    options = {"photometric": "minisblack", "extrasamples": ["unassalpha"], "planarconfig": "contig"}
    want = images.to_tensor(images.decode(tiff(values, **options), channels))
    got = images.decode(tiff(values.astype(np.uint16) * 257, **options), channels)
    assert torch.allclose(got, want, atol=1e-6)


def test_imagecodecs_is_named_where_it_is_missing(monkeypatch):
    def compressed(page):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    opened = tiff(RNG.integers(0, 9, (4, 4, 3)).astype("u2"), photometric="rgb")
    monkeypatch.setattr(tifffile.TiffPage, "asarray", compressed)
    with pytest.raises(TrainingError, match=r"a TIFF with compression \w+, .*: pip install imagecodecs"):
        images.decode(opened, 3)


def test_many_bands_without_an_error_in_pillows_log(caplog):
    opened = tiff(RNG.integers(0, 9, (4, 4, 7)).astype("u1"), photometric="minisblack", planarconfig="contig")
    with caplog.at_level(logging.WARNING):
        assert images.decode(opened, 7).shape == (7, 4, 4)
    assert not caplog.records
