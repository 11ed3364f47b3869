"""No checkpoint runs code, whatever its format and whoever reads it; and a damaged one is one clear error."""

import argparse
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

import convnextv2_fast as cf
from convnextv2_fast import cli
from convnextv2_fast.checkpoints import CheckpointError, read_state_dict
from convnextv2_fast.cli import main
from convnextv2_fast.train import TrainingError, saving


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


class Evaluated:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (eval, (f"__import__('pathlib').Path({str(self.marker)!r}).touch()",))


def state():
    return dict(cf.convnextv2_atto(num_classes=2).state_dict())


def in_namespace(evil):
    return {"model": state(), "args": argparse.Namespace(lr=evil)}


PLACES = {
    "beside the weights": lambda evil: {"model": state(), "extra": evil},
    "in the arguments": in_namespace,
    "as a weight": lambda evil: {"model": state() | {"norm.bias": evil}},
    "as the whole file": lambda evil: evil,
}
WRITERS = {
    "zip": torch.save,
    "legacy": lambda x, path: torch.save(x, path, _use_new_zipfile_serialization=False),
    "pickle": lambda x, path: Path(path).write_bytes(pickle.dumps(x)),
}


def tar(x, path):
    """torch's format before 0.2."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            data = pickle.dumps(x if name != "sys_info" else {"protocol_version": 1000, "little_endian": True})
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


WRITERS["tar"] = tar


def readers(tmp_path):
    """Everything of this library that reads a checkpoint; each must refuse."""
    model, photo = cf.convnextv2_atto(num_classes=2), tmp_path / "photo.png"
    Image.new("RGB", (64, 64)).save(photo)

    def reconstructed(path):
        if cli.main(["reconstruct", str(path), str(photo)]) != 0:
            raise CheckpointError("refused")

    def converted(path):
        if main(["convert", str(path), str(tmp_path / "out.pth"), "--to", "timm"]) != 0:
            raise CheckpointError("refused")

    return {
        "load_checkpoint": lambda path: cf.load_checkpoint(model, path),
        "read_state_dict": read_state_dict,
        "resume": saving.read,
        "convert": converted,
        "reconstruct": reconstructed,
    }


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors"])
@pytest.mark.parametrize("evil", [Touch, Evaluated])
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("place", PLACES)
def test_nothing_in_a_file_runs(tmp_path, place, writer, evil, suffix):
    marker = tmp_path / "ran"
    path = tmp_path / f"evil{suffix}"
    WRITERS[writer](PLACES[place](evil(marker)), path)
    for name, read in readers(tmp_path).items():
        with pytest.raises((CheckpointError, TrainingError)):
            read(path)
        assert not marker.exists(), f"{name} ran what is in the file"


def test_the_hostile_files_are_hostile(tmp_path):
    """Read the trusting way, they do run: else the test above shows nothing."""
    for evil in (Touch, Evaluated):
        marker, path = tmp_path / f"{evil.__name__} ran", tmp_path / "evil.pth"
        torch.save({"extra": evil(marker)}, path)
        torch.load(path, weights_only=False)
        assert marker.exists()


def whole(tmp_path, suffix):
    path = tmp_path / f"whole{suffix}"
    if suffix == ".safetensors":
        safetensors = pytest.importorskip("safetensors.torch")
        safetensors.save_file(state(), path)
    else:
        torch.save({"model": state()}, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_cut_anywhere(tmp_path, suffix):
    data = whole(tmp_path, suffix).read_bytes()
    model = cf.convnextv2_atto(num_classes=2)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    cut = tmp_path / f"cut{suffix}"
    step = len(data) // 40
    for end in [*range(1, 64, 7), *range(64, len(data), step), len(data) - 1]:
        cut.write_bytes(data[:end])
        with pytest.raises(CheckpointError) as caught:
            cf.load_checkpoint(model, cut)
        assert str(caught.value).startswith(f"{cut}: ") and "\n" not in str(caught.value)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_bytes_overwritten(tmp_path, suffix):
    """A file whose structure is damaged is an error; one whose values are is another file, and loads whole."""
    data = whole(tmp_path, suffix).read_bytes()
    g = torch.Generator().manual_seed(0)
    model, refused = cf.convnextv2_atto(num_classes=2), 0
    damaged = tmp_path / f"damaged{suffix}"
    places = [
        *torch.randint(0, 4000, (30,), generator=g).tolist(),
        *torch.randint(0, len(data), (10,), generator=g).tolist(),
    ]
    for at in places:
        damaged.write_bytes(data[:at] + b"\xff\x00\xfe\x80" + data[at + 4 :])
        try:
            cf.load_checkpoint(model, damaged)
        except CheckpointError as error:
            refused += 1
            assert str(error).startswith(f"{damaged}: ")
    assert refused >= 5


def test_an_archive_that_claims_to_be_huge(tmp_path):
    """A storage of 2^40 bytes that the archive does not hold is an error, not an allocation."""
    path = whole(tmp_path, ".pth")
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(bomb, "w") as target:
        for item in source.infolist():
            data = source.read(item)
            if item.filename.endswith("data.pkl"):
                content = {"model": {"norm.bias": torch.zeros(1)}}
                buffer = io.BytesIO()
                torch.save(content, buffer)
                with zipfile.ZipFile(buffer) as small:
                    inner = next(n for n in small.namelist() if n.endswith("data.pkl"))
                    honest = small.read(inner)
                    data = honest.replace(b"K\x01", b"\x8a\x06\x00\x00\x00\x00\x00\x01")
                assert data.count(b"\x8a\x06") >= 2, "the storage's size and the tensor's"
            target.writestr(item.filename, data)
    with pytest.raises(CheckpointError):
        cf.load_checkpoint(cf.convnextv2_atto(num_classes=2), bomb)
