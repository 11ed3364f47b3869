"""Configurations: from Python as from the command line, refused in one line, read back from older checkpoints."""

import argparse
import re
from dataclasses import FrozenInstanceError, fields

import pytest
import torch

from convnextv2_fast import errors
from convnextv2_fast.cli import finetune as cli_finetune
from convnextv2_fast.cli import pretrain as cli_pretrain
from convnextv2_fast.train import FinetuneConfig, PretrainConfig, TrainingError, finetune, pretrain, saving
from convnextv2_fast.train.options import declared
from convnextv2_fast.train.recipes import RECIPES

from .conftest import PRETRAIN, losses

TASKS = [(cli_pretrain, "pretrain", PretrainConfig), (cli_finetune, "finetune", FinetuneConfig)]
RUN = {"model": "atto", "input_size": 64, "num_workers": 0, "batch_size": 2, "log_freq": 1, "lr": 1e-3}
MAE = {**RUN, "decoder_embed_dim": 32, "grn_scope": "sample", "init": "std02", "warmup_epochs": 1}


def parser(module, name) -> argparse.ArgumentParser:
    commands = argparse.ArgumentParser().add_subparsers()
    module.add_parser(commands)
    return commands.choices[name]


@pytest.mark.parametrize(("module", "name", "config"), TASKS)
def test_the_command_line_is_the_fields(module, name, config):
    """Each field is an option, each option a field or refused; nothing has a second default."""
    found = parser(module, name)
    assert module.config(found.parse_args(["--data_path", "x"])) == config(data_path="x")
    assert module.config(found.parse_args(["--data_path", "x", "--no_pin_mem"])) == config(data_path="x", pin_mem=False)
    options = {flag.removeprefix("--") for action in found._actions for flag in action.option_strings}
    refused = {"h", "-h", "help", "no_pin_mem", "local-rank", "local_rank", "dist_on_itp", "dist_url", "world_size"}
    assert options - refused - set(module.REFUSED) == {field.name for field in fields(config)}
    text = " ".join(found.format_help().split())
    assert all(
        (f"--{option} " in text and declaration.help in text.replace("- ", "-")) or not declaration.help
        for option, declaration in declared(fields(config)).items()
    )


def test_a_run_without_the_command_line(cli, photos, tmp_path):
    """The same numbers, and the classifier goes on from it."""
    record = pretrain(PretrainConfig(data_path=photos, output_dir=tmp_path / "a", epochs=1, **MAE))
    assert record["epoch"] == 0 and len(losses(tmp_path / "a")) == 4
    code, _, err = cli("pretrain", "--data_path", photos, *PRETRAIN, "--epochs", "1", "--output_dir", tmp_path / "b")
    assert code == 0 and losses(tmp_path / "b") == losses(tmp_path / "a"), err
    start = tmp_path / "a/checkpoint-0.pth"
    options = {**RUN, "data_path": photos}
    tuned = FinetuneConfig(**options, finetune=start, epochs=1, warmup_epochs=0, output_dir=tmp_path / "c")
    trained = finetune(tuned)
    measured = finetune(FinetuneConfig(**options, eval=True, resume=tmp_path / "c/checkpoint-0.pth"))
    assert measured["acc1"] == trained["test_acc1"] and tuned.nb_classes is None


def test_the_error_has_one_class_under_both_names():
    assert TrainingError is errors.TrainingError


def test_words_are_read_as_on_the_command_line(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    config = FinetuneConfig(data_path="~/x", model="tiny", device="cuda:1", aa="none", opt_betas=(0.9, 0.95))
    assert (config.data_path, config.model, config.aa) == ("/home/someone/x", "convnextv2_tiny", "")
    assert config.device == torch.device("cuda", 1) and config.opt_betas == [0.9, 0.95]
    with pytest.raises(FrozenInstanceError):
        config.lr = 1.0
    recipe = FinetuneConfig.of_recipe("atto", data_path="x", epochs=3)
    assert (recipe.recipe, recipe.epochs, recipe.blr) == ("atto", 3, RECIPES["atto"]["blr"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number of at least 1, got 2.0"),
        ({"epochs": True}, "epochs must be a whole number of at least 1, got True"),
        ({"seed": None}, "seed must be a whole number of at least 0, got None"),
        ({"lr": float("nan")}, "lr must be a number of at least 0, got nan"),
        ({"model_ema_decay": 1.5}, "model_ema_decay must be a number from 0 to 1, got 1.5"),
        ({"smoothing": 1}, "smoothing must be a number of at least 0 and below 1, got 1"),
        ({"model": "giant"}, "model must be one of convnextv2_atto, .*, got 'giant'"),
        ({"in_chans": 0}, "in_chans must be a whole number of at least 1, got 0"),
        ({"use_amp": "maybe"}, "use_amp must be true or false, got 'maybe'"),
        ({"device": "toaster"}, "device must be a device such as cpu, cuda or cuda:0, got 'toaster'"),
        ({"opt_betas": 2.0}, "opt_betas must be a number of at least 0 and below 1, got 2.0"),
        ({"opt_betas": []}, r"opt_betas must be one or more values, got \[\]"),
        ({"cutmix_minmax": [0.1]}, r"cutmix_minmax must be 2 values, got \[0.1\]"),
        ({"cutmix_minmax": [0.9, 0.1]}, "--cutmix_minmax 0.9 0.1: the least comes first"),
        ({"save_ckpt_steps": 3}, "--save_ckpt_steps: checkpoints need a place: --output_dir"),
    ],
)
def test_bad_values_are_one_line(options, message):
    with pytest.raises(TrainingError, match=f"^{message}$"):
        FinetuneConfig(data_path="x", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_size": 80}, "must be a multiple of 32, got 80"),
        ({"mask_ratio": 0.0, "input_size": 64}, "removes none of 4 patches"),
        (
            {"input_size": 32},
            "leaves none of 1 patches visible (--input_size 32, --patch_size 32): nothing to learn from; "
            "try --patch_size 16 or --input_size 64",
        ),
        ({"input_size": 64, "mask_ratio": 0.8}, "try --mask_ratio 0.75 or less or --patch_size 16 or --input_size 96"),
        ({"mask_ratio": 0.99}, "try --mask_ratio 0.97 or less or --patch_size 16 or --input_size 320"),
        ({"mask_ratio": 1.0}, "try --mask_ratio 0.97 or less"),
    ],
)
def test_images_that_do_not_fit_are_one_line(options, message):
    with pytest.raises(TrainingError, match=f"{re.escape(message)}$|{re.escape(message)}: "):
        PretrainConfig(data_path="x", **options)


@pytest.mark.parametrize("size", [32, 64, 224, 448])
@pytest.mark.parametrize("ratio", [0.1, 0.6, 0.75, 0.9, 0.97, 0.99, 1.0])
def test_what_an_error_advises_is_accepted(size, ratio):
    try:
        PretrainConfig(data_path="x", input_size=size, mask_ratio=ratio)
    except TrainingError as error:
        for name, value in re.findall(
            r"--(mask_ratio|patch_size|input_size) ([\d.]+)", str(error).partition("try ")[2]
        ):
            PretrainConfig(data_path="x", **{"input_size": size, "mask_ratio": ratio, name: value})


def test_a_run_of_an_older_version_is_resumed(pretrain, tmp_path):
    """Its checkpoints hold every option of argparse's, also those that are refused, and the command."""
    pretrain(tmp_path, "--epochs", "1")
    content = saving.read(tmp_path / "checkpoint-0.pth")
    older = {"command": "pretrain", "crop_pct": None, "dist_on_itp": None, "dist_url": "env://", "world_size": None}
    content["args"] = {"local_rank": None, **older, **content["args"], "pin_mem": False, "warmup_epochs": 1.0}
    saving.write(content, tmp_path / "checkpoint-0.pth")
    said = pretrain(tmp_path, "--epochs", "2")
    assert f"resumed from {tmp_path / 'checkpoint-0.pth'}, with other arguments: epochs 1 -> 2\n" in said
    assert len(losses(tmp_path)) == 8
