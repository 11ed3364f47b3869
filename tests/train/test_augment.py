"""Augmentation of fine-tuning: no image may end a run, whatever Pillow thinks of timm's values."""

import random

import pytest
import torch
from PIL import Image

from convnextv2_fast.train import FinetuneConfig, TrainingError, augment, data

from .conftest import SMALL, records

STRONGEST = "rand-m10-mstd0-inc1"  # posterisation to 0 bits, which Pillow from 13 on refuses


def configured(**changes) -> FinetuneConfig:
    return FinetuneConfig(**{"data_path": "x", "input_size": 32, "aa": STRONGEST} | changes)


def picture(mode: str = "RGB") -> Image.Image:
    return Image.radial_gradient("L").resize((40, 50)).convert(mode)


@pytest.mark.parametrize("policy", [STRONGEST, "v0", "augmix-m10-mstd0"])
def test_the_strongest_policies_never_fail(policy):
    """With the Pillow that is installed. Each policy meets 0 bits: an operation of it makes the picture black."""
    change = augment.training_transform(configured(aa=policy))
    operations = list(augment._operations(change.random.transforms[1].transforms))
    black = [op for op in operations if op.aug_fn is augment.posterize]
    assert black
    for operation in black:
        operation.prob = 1.0
    assert any(operation(picture()).getcolors() == [(2000, (0, 0, 0))] for operation in black)
    random.seed(0)
    for _ in range(300):
        assert change(picture())[1] is None


def fails(*args, **options):
    raise ValueError("bits must be between or equal to 1 and 8")


def test_an_image_that_cannot_be_augmented_does_not_end_a_run(cli, photos, tmp_path, monkeypatch):
    """It is taken without, which is said once and counted; a resumed run counts on."""
    monkeypatch.setattr(augment, "posterize", fails)
    options = ("--aa", STRONGEST, "--warmup_epochs", "0", "--lr", "1e-3", "--model", "atto", "--disable_eval")
    options = ("--data_path", photos, *SMALL, *options, "--output_dir", tmp_path)
    code, _, err = cli("finetune", *options, "--epochs", "8")
    assert code == 0 and err.count("could not be augmented and was taken as it is: ValueError: bits must") == 1, err
    counts = [r.get("not_augmented", 0) for r in records(tmp_path, "log.txt")]
    assert 0 < counts[-1] < 64 and counts == sorted(counts)
    assert cli("finetune", *options, "--epochs", "9")[0] == 0
    assert records(tmp_path, "log.txt")[-1]["not_augmented"] >= counts[-1]


def test_an_augmentation_that_always_fails_ends_it():
    change = data.Augment(fails, lambda image: torch.zeros(3))
    for _ in range(data.GIVE_UP - 1):
        assert change(picture())[1].startswith("ValueError: bits must")
    with pytest.raises(TrainingError, match="50 images in a row cannot be augmented: ValueError: bits"):
        change(picture())


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels(channels):
    mode = {1: "RGB", 4: "RGBA"}[channels]  # grey images are augmented as RGB
    config = configured(in_chans=channels, aa="" if channels == 4 else STRONGEST, reprob=0.0)
    change = augment.training_transform(config)
    for _ in range(50):
        tensor, reason = change(picture(mode))
        assert tensor.shape == (channels, 32, 32) and reason is None
    whole = augment.evaluation_transform(config.preprocessing, channels)(Image.new(mode, (50, 50), (255,) * len(mode)))
    assert whole.shape == (channels, 32, 32) and torch.allclose(whole, torch.tensor(2.0))  # (1 - 0.5) / 0.25
    if channels == 4:
        with pytest.raises(TrainingError, match="switch it off with --aa none"):
            augment.training_transform(configured(in_chans=4))
