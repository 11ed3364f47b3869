"""`predict`: from a fine-tuned checkpoint to names and probabilities."""

import argparse
import contextlib
import io
import json

import pytest
import torch

from convnextv2_fast.cli import main
from convnextv2_fast.models.convnextv2 import ConvNeXtV2
from convnextv2_fast.train import augment, predict, saving, start
from convnextv2_fast.train.finetune_config import Preprocessing

NAMES = ["chelsea", "coffee", "rocket"]


@pytest.fixture(scope="module")
def model() -> ConvNeXtV2:
    torch.manual_seed(0)
    return ConvNeXtV2(depths=[1, 1, 1, 1], dims=[8, 16, 24, 32], num_classes=3, head_init_scale=30.0).eval()


@pytest.fixture
def checkpoint(model, tmp_path):
    args = {"input_size": 64, "crop_pct": 0.5, "imagenet_default_mean_and_std": False}
    averaged = {k: 0.5 * v for k, v in model.state_dict().items()}
    content = {"model": model.state_dict(), "model_ema": averaged, "args": args, "classes": NAMES}
    saving.write(content, tmp_path / "checkpoint-best.pth")
    return tmp_path / "checkpoint-best.pth"


def wanted(model, files, **changes) -> list[dict[str, float]]:
    from PIL import Image

    change = augment.evaluation_transform(Preprocessing(**changes), 3)
    images = torch.stack([change(Image.open(file).convert("RGB")) for file in files])
    with torch.inference_mode():
        return [dict(zip(NAMES, row, strict=True)) for row in model(images).softmax(dim=1).tolist()]


def test_names_probabilities_and_preprocessing_are_the_checkpoints(cli, photos, model, checkpoint, monkeypatch):
    monkeypatch.setattr(predict, "BATCH", 2)
    files = sorted((photos / "val").rglob("*.png"))
    options = ("--checkpoint", checkpoint, "--device", "cpu")
    code, out, err = cli("predict", photos / "val", *options, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [r["image"] for r in found] == [str(f) for f in files]
    same = {"input_size": 64, "crop_pct": 0.5, "imagenet_default_mean_and_std": False}
    for record, want in zip(found, wanted(model, files, **same), strict=True):
        top = {entry["class"]: entry["probability"] for entry in record["top"]}
        assert top == pytest.approx(want, abs=1e-5) and list(top.values()) == sorted(top.values(), reverse=True)
    code, out, err = cli("predict", files[0], *options, "--top", "2")
    best = max(top := wanted(model, files[:1], **same)[0], key=top.get)
    assert code == 0 and out.splitlines()[:2] == [str(files[0]), f"  {100 * top[best]:5.1f} %  {best}"]
    assert len(out.splitlines()) == 3
    code, other, err = cli("predict", files[0], *options, "--top", "2", "--use_ema")
    assert code == 0 and other != out, err


def test_checkpoints_without_names(cli, photos, model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    (tmp_path / "two.txt").write_text("a\nb\n")
    argv = ("predict", sorted(photos.rglob("*.png"))[0], "--checkpoint", tmp_path / "bare.pth", "--input_size", "64")
    code, out, _ = cli(*argv)
    assert code == 0 and {line.split("  ")[-1] for line in out.splitlines()[1:]} == {"class 0", "class 1", "class 2"}
    code, out, _ = cli(*argv, "--names", tmp_path / "names.txt")
    assert code == 0 and {line.split("  ")[-1] for line in out.splitlines()[1:]} == {"a", "b", "c"}
    assert "two.txt: names 2 classes, the head has 3" in cli(*argv, "--names", tmp_path / "two.txt")[2]


def test_what_cannot_be_predicted(cli, photos, model, checkpoint, tmp_path):
    image = sorted(photos.rglob("*.png"))[0]
    (tmp_path / "images").mkdir()
    (tmp_path / "images/bad.png").write_bytes(b"no image")
    code, out, err = cli("predict", image, tmp_path / "images", "--checkpoint", checkpoint)
    assert code == 1 and out.startswith(str(image)) and err.startswith("warning: ") and "bad.png: cannot be read" in err
    code, out, err = cli("predict", tmp_path / "images", "--checkpoint", checkpoint)
    assert code == 2 and not out and "bad.png: cannot be read as an image" in err
    assert cli("predict", tmp_path / "images", "--checkpoint", checkpoint, "--json")[:2] == (2, "[]\n")
    absent = (tmp_path / "none.png", tmp_path / "none")
    code, out, err = cli("predict", *absent, "--checkpoint", checkpoint)
    assert code == 2 and not out and all(f"{file}: no such file or folder\n" in err for file in absent), err
    code, out, err = cli("predict", image, *absent, "--checkpoint", checkpoint)
    assert code == 1 and err.count("no such file or folder") == 2, err
    encoder = {k: v for k, v in model.state_dict().items() if not k.startswith(("head", "norm"))}
    torch.save({"model": encoder}, tmp_path / "encoder.pth")
    code, out, err = cli("predict", image, "--checkpoint", tmp_path / "encoder.pth")
    assert code == 2 and "it cannot classify; fine-tune it first: finetune --finetune" in err
    (tmp_path / "empty").mkdir()
    assert "empty: holds no images" in cli("predict", tmp_path / "empty", "--checkpoint", checkpoint)[2]


def test_weights_that_are_no_numbers(cli, photos, model, tmp_path):
    state = model.state_dict() | {"norm.bias": torch.full((32,), float("nan"))}
    torch.save({"model": state}, tmp_path / "nan.pth")
    image = sorted(photos.rglob("*.png"))[0]
    code, out, err = cli("predict", image, "--checkpoint", tmp_path / "nan.pth", "--input_size", "32", "--json")
    assert code == 2 and not out and "weights that are NaN or infinite" in err and err.count("\n") == 1, err


@pytest.mark.parametrize(
    "args",
    [
        argparse.Namespace(input_size=None, crop_pct=None, mean=None),
        argparse.Namespace(input_size=[3, 224, 224], crop_pct=[1]),
        {"input_size": "96", "crop_pct": "0.9", "imagenet_default_mean_and_std": "yes"},
        {"input_size": True, "crop_pct": 2.0},
        "hi",
        None,
    ],
)
def test_arguments_of_other_programs(args):
    """timm's have the same names and other forms: what does not fit is left alone."""
    assert start.preprocessing({"args": args}) == Preprocessing()
    assert start.preprocessing({"args": args}).input_size == 224


def test_names_with_blank_lines_at_the_end(tmp_path):
    (tmp_path / "names.txt").write_text("a\n\nb\n\n\n")
    assert predict._names({}, tmp_path / "names.txt", 3) == ["a", "", "b"]


def test_names_that_the_terminal_cannot_write(photos, model, tmp_path):
    saving.write({"model": model.state_dict(), "classes": ["Kätzchen", "b", "c"]}, tmp_path / "c.pth")
    argv = ["predict", str(sorted(photos.rglob("*.png"))[0]), "--checkpoint", str(tmp_path / "c.pth")]
    with io.TextIOWrapper(io.BytesIO(), encoding="ascii") as ascii, contextlib.redirect_stdout(ascii):
        assert main([*argv, "--input_size", "32", "--device", "cpu"]) == 0
        assert "K\\xe4tzchen" in ascii.buffer.getvalue().decode("ascii")


def test_help(cli):
    code, out, _ = cli("predict", "--help")
    assert code == 0 and out.startswith("usage: python -m convnextv2_fast predict") and "Example:" in out
    assert "    predict " in cli("--help")[1]
