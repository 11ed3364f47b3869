"""What becomes of a picture's values and bands, by mode and file: kept, or refused with a reason."""

import builtins
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from convnextv2_fast.train import PretrainConfig, TrainingError, augment, finetune_config, images, pictures, pretraining

tifffile = pytest.importorskip("tifffile")
RNG = np.random.default_rng(0)
RAMP = np.linspace(0, 65535, 4096).astype(np.uint16).reshape(64, 64)
EIGHT = RNG.integers(0, 256, (12, 10, 5), dtype=np.uint8)


def file(format: str, image: Image.Image, **options) -> BytesIO:
    opened = BytesIO()
    image.save(opened, format, **options)
    return opened


def tiff(values: np.ndarray, **options) -> BytesIO:
    opened = BytesIO()
    tifffile.imwrite(opened, values, **options)
    return opened


def palette(transparent: bool) -> BytesIO:
    return file("PNG", Image.fromarray(EIGHT[..., :3]).quantize(16), **({"transparency": 3} if transparent else {}))


ORDINARY = {
    "1": lambda: file("PNG", Image.fromarray(EIGHT[..., 0]).convert("1")),
    "L": lambda: file("PNG", Image.fromarray(EIGHT[..., 0])),
    "L of tiff": lambda: file("TIFF", Image.fromarray(EIGHT[..., 0])),
    "LA": lambda: file("PNG", Image.fromarray(EIGHT[..., :2], "LA")),
    "P": lambda: palette(False),
    "P, transparent": lambda: palette(True),
    "RGB": lambda: file("PNG", Image.fromarray(EIGHT[..., :3])),
    "RGB of jpeg": lambda: file("JPEG", Image.fromarray(EIGHT[..., :3])),
    "RGB of tiff": lambda: file("TIFF", Image.fromarray(EIGHT[..., :3])),
    "RGBA": lambda: file("PNG", Image.fromarray(EIGHT[..., :4])),
    "RGBA of tiff": lambda: file("TIFF", Image.fromarray(EIGHT[..., :4])),
    "CMYK": lambda: file("JPEG", Image.fromarray(EIGHT[..., :4], "CMYK")),
    "CMYK of tiff": lambda: file("TIFF", Image.fromarray(EIGHT[..., :4], "CMYK")),
    "YCbCr": lambda: file("TIFF", Image.fromarray(EIGHT[..., :3], "YCbCr")),
}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_pictures_are_pillows(name, channels):
    opened = ORDINARY[name]()
    want = Image.open(opened).convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])
    got = images.decode(opened, channels)
    assert got.mode == want.mode and got.tobytes() == want.tobytes()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["La", "RGBa", "RGBX", "LAB", "HSV", "PA"])
def test_modes_that_pillow_converts_by_way_of_others(mode, channels):
    got = images.convert(Image.new(mode, (4, 3)), channels)
    assert got.mode == images.MODES[channels] and got.size == (4, 3)


DEEP = {
    "I;16 of png": lambda: file("PNG", Image.fromarray(RAMP)),
    "I;16 of tiff": lambda: file("TIFF", Image.fromarray(RAMP)),
    "I;16B": lambda: tiff(RAMP.astype(">u2"), byteorder=">"),
    "I of pgm": lambda: BytesIO(b"P5 64 64 65535\n" + RAMP.astype(">u2").tobytes()),
    "white is zero": lambda: tiff(65535 - RAMP, photometric="miniswhite"),
    "white is zero, big-endian": lambda: tiff((65535 - RAMP).astype(">u2"), photometric="miniswhite", byteorder=">"),
    "F": lambda: file("TIFF", Image.fromarray((RAMP / 65535).astype(np.float32))),
    "double": lambda: tiff(RAMP / 65535),
}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", DEEP)
def test_grey_of_more_than_8_bits_keeps_its_values(name, channels):
    want = torch.from_numpy(RAMP.astype(np.float32) / 65535)
    got = images.decode(DEEP[name](), channels)
    assert got.shape == (channels, 64, 64) and got.dtype == torch.float32
    assert all(torch.allclose(band, want, atol=1e-7) for band in got[:3])
    assert channels < 4 or (got[3] == 1).all()  # opaque, as Pillow's


def test_the_largest_value_is_that_of_the_bits():
    twelve = tiff(np.array([[0, 4095], [2048, 1]], np.uint16))
    assert images.decode(twelve, 1).max() == pytest.approx(4095 / 65535)
    assert images.decode(twelve, 1, (0, 4095)).flatten().tolist() == pytest.approx([0, 1, 2048 / 4095, 1 / 4095])
    assert images.decode(BytesIO(b"P5 2 1 1000\n\0\0\x03\xe8"), 1).tolist() == [[[0, 1]]]


RANGES = {
    "signed 32": (RAMP.astype(np.int32), (0, 65535)),
    "unsigned 32": (RAMP.astype(np.uint32) * 65537, (0, 2**32 - 1)),
    "signed 16": ((RAMP.astype(np.int32) - 32768).astype(np.int16), (-32768, 32767)),
    "signed 8": (np.arange(-64, 64, dtype=np.int8).reshape(8, 16), (-64, 63)),
    "float": (RAMP.astype(np.float32) - 1000, (-1000, 64535)),
}


@pytest.mark.parametrize("name", RANGES)
def test_other_values_need_a_range(name):
    values, ends = RANGES[name]
    with pytest.raises(
        TrainingError, match=r"do not say which values are black and white\. .* as in --value_range"
    ) as e:
        images.decode(tiff(values), 3)
    assert len(str(e.value)) < 200  # or a line for a person would cut it off
    got = images.decode(tiff(values), 1, ends)
    want = (values.astype(np.float64) - ends[0]) / (ends[1] - ends[0])
    assert np.allclose(got[0].numpy(), want, atol=1e-6)
    cut = images.decode(tiff(values), 1, (ends[0], sum(ends) / 2))
    assert cut.max() == 1 and cut.min() == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers(bad):
    with pytest.raises(TrainingError, match="NaN or infinite"):
        images.decode(tiff(np.array([[0.5, bad]], np.float32)), 1, (0, 1))


@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(
    ("bands", "photometric"), [(2, "minisblack"), (4, "minisblack"), (5, "minisblack"), (4, "rgb"), (5, "rgb")]
)
def test_every_band_of_a_tiff_comes_through(bands, dtype, photometric, planes):
    values = RNG.integers(0, 200, (12, 10, bands)).astype(dtype)
    extra = [0] * (bands - (3 if photometric == "rgb" else 1))
    stored = values if planes == "contig" else np.moveaxis(values, -1, 0)
    opened = tiff(stored, photometric=photometric, extrasamples=extra, planarconfig=planes)
    got = images.to_tensor(images.decode(opened, bands))
    want = torch.from_numpy(values.astype(np.float32) / np.iinfo(dtype).max).permute(2, 0, 1)
    assert torch.allclose(got, want, atol=1e-7)
    # resizing must not multiply the others by a last band that is no opacity
    small = pretraining.transform(32, bands).plain(images.decode(opened, bands))
    assert small.shape == (bands, 32, 32)
    for channels in (1, 3):
        if photometric == "rgb":
            assert images.to_tensor(images.decode(opened, channels)).shape[0] == channels  # its colours
        else:
            with pytest.raises(TrainingError, match=f"{bands} bands .* takes {channels}; .* --in_chans {bands}"):
                images.decode(opened, channels)


def test_bands_are_not_multiplied_by_a_last_one_of_zero():
    values = np.full((40, 40, 4), 200, np.uint8)
    values[..., 3] = 0
    got = pictures.prepare(images.decode(tiff(values, photometric="rgb", extrasamples=[0]), 4), 32, 4)
    assert torch.allclose(got[0, :3], torch.tensor((200 / 255 - 0.5) / 0.25))


def test_rgb_of_16_bits():
    values = RNG.integers(0, 4096, (8, 8, 3)).astype(np.uint16)
    got = images.decode(tiff(values, photometric="rgb"), 3, (0, 4095))
    assert torch.allclose(got, torch.from_numpy(values.astype(np.float32) / 4095).permute(2, 0, 1), atol=1e-6)
    assert torch.allclose(images.decode(tiff(values, photometric="rgb"), 1, (0, 4095)), images.grey(got))


@pytest.mark.parametrize(
    ("opened", "channels", "message"),
    [
        (ORDINARY["RGB"], 5, r"3 bands \(mode RGB\), and the model takes 5; they suit a model of --in_chans 3"),
        (ORDINARY["L"], 2, r"1 band \(mode L\), and the model takes 2"),
        (DEEP["F"], 2, r"1 band \(TIFF of float32\), and the model takes 2"),
        (lambda: tiff(RNG.integers(0, 9, (4, 4, 4)).astype("u2"), photometric="separated"), 4, "a TIFF of SEPARATED"),
        (lambda: tiff(EIGHT, photometric="rgb", extrasamples=[0, 0]), 4, r"5 bands .* --in_chans 5"),
    ],
)
def test_bands_that_cannot_be_had(opened, channels, message):
    with pytest.raises(TrainingError, match=message):
        images.decode(opened(), channels)


def test_a_range_that_pillow_would_not_keep():
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header, rows = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0), zlib.compress(bytes(7))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert images.decode(BytesIO(png), 3).mode == "RGB"
    with pytest.raises(
        TrainingError, match=r"PNG of mode RGB with more than 8 bits, .* --value_range cannot be applied"
    ):
        images.decode(BytesIO(png), 3, (0, 4095))


def test_tifffile_is_named_where_it_is_missing(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "tifffile":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    opened = tiff(EIGHT, photometric="minisblack", planarconfig="contig")
    grey = DEEP["I;16 of tiff"]()
    monkeypatch.setattr(builtins, "__import__", without)
    assert images.decode(grey, 1).shape == (1, 64, 64)  # Pillow reads it
    with pytest.raises(TrainingError, match="pip install tifffile"):
        images.decode(opened, 5)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_transforms_of_deep_pictures(channels):
    """A constant stays what it is through every transform."""
    values = np.full((50, 60, 5) if channels == 5 else (50, 60), 13107, np.uint16)  # 0.2
    photometric = {"photometric": "minisblack", "planarconfig": "contig"} if channels == 5 else {}
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in pretraining.mean_and_std(channels))
    want = ((0.2 - mean) / std).expand(channels, 32, 32)
    deep = images.decode(tiff(values, **photometric), channels)
    got = pretraining.transform(32, channels)
    assert torch.allclose(got(deep)[0], want, atol=1e-5) and torch.allclose(got.plain(deep), want, atol=1e-5)
    assert torch.allclose(pictures.prepare(deep, 32, channels)[0], want, atol=1e-5)
    read = images.decode(tiff(values, **photometric), images.read_as(channels))
    config = finetune_config.FinetuneConfig(data_path="x", in_chans=channels, aa="none", reprob=0.0, input_size=32)
    tensor, reason = augment.training_transform(config)(read)
    assert reason is None and torch.allclose(tensor, want, atol=1e-5)
    assert torch.allclose(augment.evaluation_transform(config.preprocessing, channels)(read), want, atol=1e-5)


def test_colour_augmentation_is_for_8_bits():
    config = finetune_config.FinetuneConfig(data_path="x", input_size=32)
    with pytest.raises(TrainingError, match=r"not all of these are; switch it off with --aa none"):
        augment.training_transform(config)(images.decode(DEEP["I;16 of png"](), 3))


def test_the_middle_of_a_thin_tensor():
    assert images.middle(torch.zeros(1, 1, 20000)).shape == (1, 1, 50)


def test_a_range_comes_in_order():
    with pytest.raises(TrainingError, match=r"^--value_range 9 3: the lower value comes first$"):
        PretrainConfig(data_path="x", value_range=[9, 3])
