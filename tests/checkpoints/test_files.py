"""Files: every kind that is read, and one clear error for each that is not, beginning with its path."""

import argparse
import builtins
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from convnextv2_fast.checkpoints import CheckpointError, load_checkpoint, read_state_dict
from convnextv2_fast.cli import main

from ..golden import vectors
from . import states
from .states import same
from .test_load import dense, refused


def save(path: Path, what) -> Path:
    torch.save(what, path)
    return path


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.bin", "pytorch_model.bin", "checkpoint-best"])
def test_torch_files(tmp_path, name):
    state = states.upstream()
    path = save(tmp_path / name, {"model": OrderedDict(state), "args": argparse.Namespace(lr=1e-3, output_dir="x")})
    same(read_state_dict(path), state)
    same(read_state_dict(str(path)), state)
    assert load_checkpoint(dense(), path).checkpoint == str(path)


def test_old_torch_files(tmp_path):
    state = states.upstream()
    torch.save({"model": state}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    same(read_state_dict(tmp_path / "old.pth"), state)


def test_safetensors(tmp_path):
    from safetensors.torch import save_file

    state = states.transformers()
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = dense()
    assert load_checkpoint(model, tmp_path / "model.safetensors").format == "transformers"


def test_safetensors_not_installed(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "safetensors":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    refused(dense(), tmp_path / "model.safetensors", r"model\.safetensors: reading .* needs the package safetensors")


def test_transformers_save_pretrained(tmp_path):
    model = states.randomise(states.transformers_model())
    model.save_pretrained(tmp_path)
    refused(dense(), tmp_path, "is a directory; give the file in it, such as model.safetensors")
    same(read_state_dict(tmp_path / "model.safetensors"), dict(model.state_dict()))


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def broken_files(folder: Path) -> dict[str, tuple[Path, str]]:
    from safetensors.torch import save_file

    made = {name: folder / name for name in ("cut.pth", "old.pth", "text.pth", "empty.pth", "cut.safetensors")}
    for share, name in ((0.6, "cut.pth"), (0.2, "early.pth"), (0.999, "late.pth")):
        made[name] = save(folder / name, states.upstream())
        cut(made[name], share)
    torch.save(states.upstream(), made["old.pth"], _use_new_zipfile_serialization=False)
    cut(made["old.pth"], 0.7)
    made["text.pth"].write_text("<html>404</html>")
    made["empty.pth"].write_bytes(b"")
    save_file(states.upstream(), made["cut.safetensors"])
    cut(made["cut.safetensors"], 0.5)
    made["json.safetensors"] = folder / "json.safetensors"
    made["json.safetensors"].write_text(json.dumps({"weight_map": {}}))
    made["other.zip"] = folder / "other.zip"
    with zipfile.ZipFile(made["other.zip"], "w") as z:
        z.writestr("readme", "hello")
    made["corrupt.pth"] = save(folder / "corrupt.pth", {"model": states.upstream()})
    data = bytearray(made["corrupt.pth"].read_bytes())
    data[200:600] = bytes(400)
    made["corrupt.pth"].write_bytes(data)
    made["missing.pth"] = folder / "missing.pth"
    made["a list.pth"] = save(folder / "a list.pth", [1, 2, 3])
    made["tensor.pth"] = save(folder / "tensor.pth", torch.zeros(3))
    made["optimizer.pth"] = save(folder / "optimizer.pth", {"optimizer": {"state": {}}, "epoch": 3})
    made["module.pth"] = save(folder / "module.pth", torch.nn.Linear(2, 2))
    expected = {
        "missing.pth": "no such file",
        "empty.pth": "the file is empty",
        "a list.pth": "expected a state dict, got a list",
        "tensor.pth": "expected a state dict, got a Tensor",
        "optimizer.pth": "holds no weights: it holds 'optimizer', 'epoch'",
        "module.pth": "torch.nn.modules.linear.Linear.*weights_only=False",
    }
    return {n: (p, expected.get(n, "truncated, corrupt, or no")) for n, p in made.items()}


def test_broken_files(tmp_path):
    files = broken_files(tmp_path)
    assert len(files) == 15
    model = dense()
    for path, message in files.values():
        text = refused(model, path, message)
        assert text.startswith(f"{path}: ") and "\n" not in text


def test_a_file_runs_no_code(tmp_path):
    class Touch:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    path = save(tmp_path / "evil.pth", {"model": states.upstream(), "extra": Touch()})
    refused(dense(), path, "Python objects that may run code")
    assert not (tmp_path / "ran").exists()


def test_the_path_is_in_later_errors_too(tmp_path):
    path = save(tmp_path / "a.pth", {"model": {"fc.weight": torch.zeros(3)}})
    refused(dense(), path, r"a\.pth is no ConvNeXt V2 state dict; it holds fc\.weight")
    path = save(tmp_path / "b.pth", {"model": states.upstream(depths=(1, 1, 1, 1))})
    refused(dense(), path, r"b\.pth \(upstream\) does not fit the model")


# ---- the command line ----


def convert(*args) -> int:
    return main(["convert", *map(str, args)])


def test_command_line_converts_and_back(tmp_path, capsys):
    state = states.upstream()
    there, back = tmp_path / "hf.safetensors", tmp_path / "back.pth"
    assert convert(save(tmp_path / "a.pth", {"model": state}), there, "--to", "transformers") == 0
    assert capsys.readouterr().out == f"{there}: 70 tensors, upstream to transformers\n"
    assert convert(there, back, "--to", "upstream", "--from", "transformers") == 0
    same(torch.load(back)["model"], state)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pth", "back.pth", "hf.safetensors"]


@pytest.mark.parametrize(("target", "key"), [("fcmae", "model"), ("mmpretrain", "state_dict"), ("timm", None)])
def test_command_line_writes_what_each_library_reads(tmp_path, target, key):
    path = save(tmp_path / "a.pth", states.upstream(classes=None))
    options = ["--conv-mlp", "true"] if target == "timm" else []
    assert convert(path, tmp_path / "b.pth", "--to", target, *options) == 0
    loaded = torch.load(tmp_path / "b.pth")
    assert set(loaded) == {key} if key else "stem.0.weight" in loaded


def test_command_line_options(tmp_path, capsys):
    path = save(tmp_path / "a.pth", {"model": vectors.state_dict(), "model_ema": vectors.state_dict()})
    out = tmp_path / "b.pth"
    assert convert(path, out, "--to", "upstream") == 2
    assert "error: upstream has no place for mask_token" in capsys.readouterr().err and not out.exists()
    assert convert(path, out, "--to", "upstream", "--drop-extra", "--use-ema") == 0
    assert "fcmae to upstream, 15 left out" in capsys.readouterr().out
    assert convert(path, out, "--to", "upstream", "--ignore", "decoder.", "--ignore", "pred.") == 2
    assert f"error: {out}: exists (--force overwrites it)" in capsys.readouterr().err
    rest = ["decoder.", "pred.", "proj.", "mask_token"]
    ignore = [word for prefix in rest for word in ("--ignore", prefix)]
    assert convert(path, out, "--to", "upstream", "--force", *ignore) == 0
    assert convert(tmp_path / "none.pth", out, "--to", "timm", "--force") == 2
    assert f"error: {tmp_path / 'none.pth'}: no such file" in capsys.readouterr().err


def test_the_earlier_name_of_the_command(tmp_path):
    path = save(tmp_path / "a b.pth", states.upstream())
    command = [sys.executable, "-m", "convnextv2_fast.checkpoints", path, tmp_path / "c d.pth", "--to", "mmpretrain"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "") and "70 tensors, upstream to mmpretrain" in done.stdout
    with pytest.raises(CheckpointError, match="no such file"):
        read_state_dict(tmp_path / "c.pth")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>404</html>", "it is a web page, so its download has failed"),
        (b"<!DOCTYPE html>", "it is a web page, so its download has failed"),
        (b"version https://git-lfs.github.com/spec/v1", "it is a pointer of Git LFS; .*"),
        (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file, as Keras writes"),
        (b"\x10" + bytes(7) + b"{}", "it looks like safetensors; such a file must be named .safetensors"),
        (b"junk and more", "it begins with b'junk and', as neither a zip archive nor a pickle does"),
        (pickle.dumps({"a": 1}, 4), "Unsupported operand 149"),
    ],
)
def test_the_reason_is_not_torchs_preamble(tmp_path, content, reason):
    (tmp_path / "a.pth").write_bytes(content)
    refused(dense(), tmp_path / "a.pth", rf"a\.pth: truncated, corrupt, or no file of torch.save \({reason}\)")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_foreign_name_is_told_once(tmp_path, zipped):
    for function, name in ((eval, "builtins.eval"), (os.system, "posix.system")):
        held = type("Held", (), {"__reduce__": lambda self, function=function: (function, ("1",))})()
        torch.save({"x": held}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        refused(dense(), tmp_path / "a.pth", rf"run code when read \({name}\); if you trust")
