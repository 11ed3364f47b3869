"""From pre-training to predictions on pictures that Pillow has no mode for: the checkpoint carries what each needs."""

import json

import numpy as np
import pytest
import torch

from convnextv2_fast.train import saving, start

from .conftest import SMALL, records

tifffile = pytest.importorskip("tifffile")
MAE = ("--model", "atto", *SMALL, "--decoder_embed_dim", "32", "--grn_scope", "sample", "--init", "std02")
TUNE = ("--epochs", "1", *SMALL, "--warmup_epochs", "0", "--lr", "1e-3")
PLAIN = ("--aa", "none", "--reprob", "0")


@pytest.fixture
def satellite(tmp_path):
    """Five bands of signed 16 bits, `train` and `val` of two classes."""
    rng = np.random.default_rng(0)
    for split, number in (("train", 2), ("val", 1)):
        for name in ("field", "wood"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(number):
                values = rng.integers(-50, 4000, (70, 70, 5)).astype(np.int16)
                place = tmp_path / split / name / f"{i}.tif"
                tifffile.imwrite(place, values, photometric="minisblack", planarconfig="contig")
    return tmp_path


def test_five_bands_of_signed_16_bits(cli, satellite, tmp_path):
    pre, tuned = tmp_path / "pre", tmp_path / "tuned"
    base = ("pretrain", "--data_path", satellite, *MAE, "--in_chans", "5", "--epochs", "1", "--warmup_epochs", "0")
    code, _, err = cli(*base, "--output_dir", tmp_path / "none")
    assert code == 2 and "4 images in a row cannot be read" in err and "--value_range 0 4095" in err, err
    code, _, err = cli(*base, "--value_range", "-50", "4000", "--output_dir", pre)
    assert code == 0, err
    pre /= "checkpoint-0.pth"
    code, _, err = cli("reconstruct", pre, satellite / "val", "--out", tmp_path / "sheet.png")
    assert code == 0 and (tmp_path / "sheet.png").exists(), err
    code, _, err = cli("reconstruct", pre, satellite / "val", "--mask_ratio", "1")
    assert code == 2 and "--mask_ratio 1" in err, err
    argv = ("finetune", "--data_path", satellite, *TUNE, *PLAIN, "--output_dir", tuned)
    code, _, err = cli(*argv, "--finetune", pre)  # channels and range are the checkpoint's
    assert code == 0, err
    content = saving.read(tuned / "checkpoint-0.pth")
    assert content["classes"] == ["field", "wood"] and content["args"]["in_chans"] == 5
    assert start.preprocessing(content).value_range == [-50, 4000]
    code, _, err = cli(*argv, "--epochs", "2")  # goes on, without saying either again
    assert code == 0 and "value_range" not in err and "unreadable" not in records(tuned, "log.txt")[-1], err
    code, out, err = cli("finetune", "--data_path", satellite, *TUNE, "--eval", "--resume", tuned / "checkpoint-1.pth")
    assert code == 0 and "unreadable" not in out, err
    image = satellite / "val/wood/0.tif"
    code, out, err = cli("predict", image, "--checkpoint", tuned / "checkpoint-1.pth", "--json")
    assert code == 0 and {top["class"] for top in json.loads(out)[0]["top"]} == {"field", "wood"}, err
    other = ("--value_range", "-50", "20000")
    assert cli("predict", image, "--checkpoint", tuned / "checkpoint-1.pth", "--json", *other)[1] != out
    code, _, err = cli("predict", image, "--checkpoint", tuned / "checkpoint-1.pth", "--value_range", "3", "1")
    assert code == 2 and "--value_range 3 1: the lower value comes first" in err
    grey = satellite / "grey.tif"
    tifffile.imwrite(grey, np.zeros((40, 40), np.uint8))
    code, _, err = cli("predict", grey, "--checkpoint", tuned / "checkpoint-1.pth")
    assert code == 2 and "1 band (mode L), and the model takes 5; they suit a model of --in_chans 1" in err, err


def test_colour_augmentation_of_deep_pictures_is_one_line(cli, satellite, tmp_path):
    argv = ("finetune", "--data_path", satellite, "--model", "atto", *TUNE, "--value_range", "0", "4000")
    code, _, err = cli(*argv, "--in_chans", "5")
    assert code == 2 and "--in_chans 5: colour augmentation is for RGB images; switch it off with --aa none" in err
    for place in satellite.rglob("*.tif"):
        tifffile.imwrite(place, tifffile.imread(place)[..., 0])
    code, _, err = cli(*argv)
    said = "error: colour augmentation is for images of 8 bits, and not all of these are; switch it off with --aa none "
    assert code == 2 and f"{said}and no --color_jitter (crops, flips and random erasing stay)\n" in err, err


def test_the_best_average_is_what_its_file_is_taken_for(cli, photos, tmp_path):
    """predict and --eval used the weights beside the average for whose accuracy the file was written."""
    argv = ("finetune", "--data_path", photos, "--model", "atto", *TUNE, *PLAIN, "--output_dir", tmp_path)
    code, _, err = cli(*argv, "--model_ema", "--model_ema_eval", "--model_ema_decay", "0.5")
    assert code == 0, err
    content = saving.read(tmp_path / "checkpoint-best-ema.pth")
    averaged, plain = content["model_ema"]["head.weight"], content["model"]["head.weight"]
    assert not torch.equal(averaged, plain)
    taken = [start.weights(tmp_path / f"checkpoint-{name}.pth")[0] for name in ("best-ema", "best", "0")]
    assert [torch.equal(found.tensors["head.weight"], averaged) for found in taken] == [True, False, False]
    code, out, err = cli(
        "finetune", "--data_path", photos, *TUNE, "--eval", "--resume", tmp_path / "checkpoint-best-ema.pth"
    )
    best = records(tmp_path, "log.txt")[-1]["best_acc1_ema"]
    assert code == 0 and f"top-1 {best:.2f} %" in out, err
