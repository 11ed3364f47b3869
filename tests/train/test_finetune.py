"""Fine-tuning: from a pre-training checkpoint without a missing tensor, upstream's recipes, evaluation."""

import argparse
from dataclasses import replace

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast.cli import finetune as cli_finetune
from convnextv2_fast.train import FinetuneConfig, TrainingError, augment, finetuning, saving, start
from convnextv2_fast.train.recipes import RECIPES

from .conftest import PRETRAIN, SMALL, records

FINETUNE = ("--model", "atto", *SMALL, "--nb_classes", "3", "--warmup_epochs", "0", "--lr", "2e-3")


@pytest.fixture(scope="session")
def pretrained(photos, tmp_path_factory):
    from convnextv2_fast.cli import main

    out = tmp_path_factory.mktemp("pretrained")
    argv = ("pretrain", "--data_path", photos, *PRETRAIN, "--epochs", "1", "--output_dir", out)
    assert main([str(a) for a in argv]) == 0
    return out / "checkpoint-0.pth"


def configured(*argv: str) -> FinetuneConfig:
    commands = argparse.ArgumentParser().add_subparsers()
    cli_finetune.add_parser(commands)
    return cli_finetune.config(commands.choices["finetune"].parse_args(["--data_path", "x", *argv]))


def test_from_a_pretraining_checkpoint(cli, photos, pretrained, tmp_path):
    """Nothing of the encoder is missing; it learns; the best is kept and evaluates to the same."""
    options = (*FINETUNE, "--finetune", pretrained, "--epochs", "6", "--smoothing", "0", "--aa", "", "--reprob", "0")
    options = (*options, "--model_ema", "--model_ema_eval", "--model_ema_decay", "0.8", "--drop_path", "0.1")
    code, out, err = cli("finetune", "--data_path", photos, *options, "--output_dir", tmp_path)
    assert code == 0, err
    assert "loaded 136 tensors" in out
    assert "left at their initial values: norm.weight, norm.bias, head.weight, head.bias\n" in out
    epochs = records(tmp_path, "log.txt")
    assert epochs[-1]["train_loss"] < 0.7 * epochs[0]["train_loss"]
    best = max(e["test_acc1"] for e in epochs)
    assert epochs[-1]["best_acc1"] == best >= 100 * 2 / 3 - 0.01 and "test_acc1_ema" in epochs[-1]
    evaluation = ("--eval", "true", "--resume", tmp_path / "checkpoint-best.pth")
    code, out, err = cli("finetune", "--data_path", photos, *FINETUNE, *evaluation)
    assert code == 0 and f"top-1 {best:.2f} %" in out, err
    model = cf.convnextv2_atto(num_classes=3)
    assert cf.load_checkpoint(model, tmp_path / "checkpoint-best.pth").left_at_init == ()


def test_a_killed_run_goes_on_exactly(cli, photos, tmp_path, monkeypatch):
    """Drop path, mixup and random erasing draw the same numbers again."""
    from convnextv2_fast.train import loop

    options = (*FINETUNE, "--mixup", "0.8", "--cutmix", "1", "--drop_path", "0.3", "--epochs", "2")
    options = (*options, "--save_ckpt_steps", "2")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert cli("finetune", "--data_path", photos, *options, "--output_dir", whole)[0] == 0
    step, done = loop._step, []

    def counted(*args):
        step(*args)
        done.append(1)
        if len(done) == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", counted)
        assert cli("finetune", "--data_path", photos, *options, "--output_dir", cut)[0] == 130
    assert cli("finetune", "--data_path", photos, *options, "--output_dir", cut)[0] == 0
    assert (cut / "steps.jsonl").read_text() == (whole / "steps.jsonl").read_text()
    assert records(cut, "log.txt") == records(whole, "log.txt")


@pytest.mark.parametrize("size", RECIPES)
def test_recipes_are_defaults(size):
    args = vars(configured("--recipe", size))
    assert {k: args[k] for k in RECIPES[size]} == RECIPES[size]
    args = vars(configured("--blr", "0.1", "--recipe", size, "--mixup", "0.0"))
    assert (args["blr"], args["mixup"], args["epochs"]) == (0.1, 0.0, RECIPES[size]["epochs"])
    assert vars(configured("--epochs", "7"))["epochs"] == 7


def test_defaults_are_upstreams():
    args = vars(configured())
    want = {
        "batch_size": 64,
        "epochs": 100,
        "drop_path": 0.0,
        "layer_decay_type": "single",
        "layer_decay": 1.0,
        "model_ema": False,
        "model_ema_decay": 0.9999,
        "weight_decay": 0.05,
        "blr": 5e-4,
        "min_lr": 1e-6,
        "warmup_epochs": 20,
        "aa": "rand-m9-mstd0.5-inc1",
        "smoothing": 0.1,
        "reprob": 0.25,
        "mixup": 0.0,
        "cutmix": 0.0,
        "head_init_scale": 0.001,
        "nb_classes": None,  # counted
        "model": None,  # the checkpoint's
        "use_amp": False,
    }
    assert {k: args[k] for k in want} == want


def test_layer_decay_reaches_the_optimizer():
    config = configured("--recipe", "atto", "--lr", "1.0")
    optimizer = finetuning._optimizer(config, cf.convnextv2_atto(num_classes=3))
    assert len({g["lr_scale"] for g in optimizer.param_groups}) == 14
    config = configured("--recipe", "base", "--model", "tiny", "--lr", "1.0")
    with pytest.raises(TrainingError, match=r"made for depths of \(3, 3, 27, 3\)"):
        finetuning._optimizer(config, cf.convnextv2_tiny(num_classes=3))


@pytest.mark.parametrize("size", [64, 384])
def test_evaluation_transform(size):
    from PIL import Image

    config = configured("--input_size", str(size))
    image = Image.new("RGB", (100, 50), (255, 0, 0))
    assert augment.evaluation_transform(config.preprocessing, 3)(image).shape == (3, size, size)
    plain = configured("--input_size", "32", "--imagenet_default_mean_and_std", "false")
    assert augment.evaluation_transform(plain.preprocessing, 3)(image)[0].eq(1).all()


def test_schedules_that_upstream_ignores(cli, photos, tmp_path):
    """warmup_steps and weight_decay_end do something here."""
    options = (*FINETUNE, "--epochs", "1", "--warmup_steps", "2", "--weight_decay_end", "0.5", "--disable_eval")
    assert cli("finetune", "--data_path", photos, *options, "--output_dir", tmp_path)[0] == 0
    assert [r["lr"] for r in records(tmp_path)][:3] == pytest.approx([0.0, 1e-3, 2e-3])
    groups = saving.read(tmp_path / "checkpoint-0.pth")["optimizer"]["param_groups"]
    assert {round(g["weight_decay"], 2) for g in groups} == {0.0, 0.43}


def test_another_model_key(photos, pretrained, tmp_path):
    content = saving.read(pretrained)
    torch.save({"model": {}, "mine": content["model"]}, tmp_path / "other.pth")
    config = configured("--nb_classes", "3", "--finetune", str(tmp_path / "other.pth"), "--model_key", "mine")
    found, weights = start.adopt(config)
    assert finetuning.build(found, weights)[1].loaded == 136 and found.model == "convnextv2_atto"
    with pytest.raises(TrainingError, match=r"none of --model_key yours\|theirs; it has model, mine"):
        start.adopt(replace(config, model_key="yours|theirs"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--nb_classes", "5"), "has 3 classes, --nb_classes says 5"),
        (("--finetune", "none.pth"), "none.pth: no such file"),
        (("--mixup", "0.8", "--batch_size", "3"), "--batch_size 3 must be even"),
        (("--data_set", "image_folder"), "--eval_data_path"),
        (("--eval",), "--eval: say which weights"),
        (("--model_prefix", "x."), "--model_prefix is not needed"),
        (("--resplit",), "--resplit needs augmentation splits"),
        (("--recipe", "huge"), "invalid choice: 'huge'"),
    ],
)
def test_bad_configured(cli, photos, argv, message):
    code, _, err = cli("finetune", "--data_path", photos, *FINETUNE, "--epochs", "1", *argv)
    assert code == 2 and message in err and "Traceback" not in err, err
