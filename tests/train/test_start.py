"""Where a classifier starts: its model and classes are found, and what does not fit is said in three lines."""

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast.train import saving

from .conftest import SMALL, records


@pytest.fixture(scope="session")
def grey(tmp_path_factory):
    """A pre-training checkpoint of an atto for grey images."""
    path = tmp_path_factory.mktemp("grey") / "checkpoint-0.pth"
    model = cf.fcmae.convnextv2_atto(in_chans=1, decoder_embed_dim=32)
    saving.write({"model": model.state_dict(), "args": {}}, path)
    return path


FINETUNE = (*SMALL, "--warmup_epochs", "0", "--lr", "1e-3", "--epochs", "1")


def test_model_channels_and_classes_are_found(cli, photos, grey, tmp_path):
    code, out, err = cli(
        "finetune", "--data_path", photos, *FINETUNE, "--finetune", grey, "--disable_eval", "--output_dir", tmp_path
    )
    assert code == 0 and "loaded 136 tensors" in out and "adapted" not in out, err
    content = saving.read(tmp_path / "checkpoint-0.pth")
    assert content["classes"] == ["chelsea", "coffee", "rocket"]
    assert {k: content["args"][k] for k in ("model", "in_chans", "nb_classes")} == {
        "model": "convnextv2_atto",
        "in_chans": 1,
        "nb_classes": 3,
    }
    code, out, err = cli(
        "finetune", "--data_path", photos, *FINETUNE, "--eval", "--resume", tmp_path / "checkpoint-0.pth"
    )
    assert code == 0 and "top-1" in out, err
    assert records(tmp_path)


def three_lines(cli, *argv) -> list[str]:
    code, _, err = cli("finetune", *argv)
    assert code == 2 and err.count("\n") == 3, err
    return err.splitlines()


def test_a_checkpoint_that_does_not_fit(cli, photos, grey):
    argv = ("--data_path", photos, *FINETUNE, "--finetune", grey)
    first, second, third = three_lines(cli, *argv, "--model", "tiny")
    assert first.endswith("It holds convnextv2_atto, 1 input channels, an FCMAE decoder")
    assert second == "the model is convnextv2_tiny, 1 input channels, a head for 3 classes"
    assert third == "give --model convnextv2_atto; or leave --model out (--details lists the tensors)"
    assert "give --in_chans 1, or leave" in three_lines(cli, *argv, "--in_chans", "3")[2]
    third = three_lines(cli, *argv, "--recipe", "tiny")[2]
    assert third.startswith("the checkpoint holds atto, --recipe tiny makes tiny: use --recipe atto (")
    code, _, err = cli("finetune", *argv, "--model", "tiny", "--details")
    assert code == 2 and "stages.2.8.pwconv2.weight" in err and err.count("missing from the checkpoint") == 1
    argv = ("--data_path", photos, *FINETUNE, "--eval", "--resume", grey)
    assert three_lines(cli, *argv)[2].startswith("it comes from pre-training: fine-tune it first, with finetune --fine")


def test_a_run_of_another_model_is_not_resumed(cli, photos, tmp_path):
    argv = ("--data_path", photos, *FINETUNE, "--disable_eval", "--output_dir", tmp_path)
    assert cli("finetune", *argv, "--model", "atto")[0] == 0
    first, second, third = three_lines(cli, *argv, "--model", "femto")
    assert "holds another model than this run's: convnextv2_atto, 3 input channels" in first
    assert second.startswith("this run's model is convnextv2_femto, ")
    assert third.startswith("give what it was trained with (--model convnextv2_atto) to resume it, or another --output")


def test_a_folder_with_a_checkpoint_goes_before_finetune(cli, photos, grey, tmp_path):
    """`--finetune` is then not even read, and what changed is named; the model is the checkpoint's."""
    argv = ("--data_path", photos, *SMALL, "--warmup_epochs", "0", "--lr", "1e-3", "--disable_eval")
    argv = ("finetune", *argv, "--output_dir", tmp_path)
    assert cli(*argv, "--epochs", "1", "--finetune", grey)[0] == 0
    code, out, err = cli(*argv, "--epochs", "2", "--smoothing", "0.2", "--finetune", "new.pth")
    assert code == 0 and not out, err
    went_on = tmp_path / "checkpoint-0.pth"
    assert err.startswith(f"--finetune new.pth is not used: the run continues from {went_on}. Another --output_dir sta")
    changed = f"finetune {grey} -> new.pth, epochs 1 -> 2, smoothing 0.1 -> 0.2"
    assert f"resumed from {went_on}, with other arguments: {changed}\n" in err
    content = saving.read(tmp_path / "checkpoint-1.pth")
    assert (content["args"]["model"], content["args"]["in_chans"]) == ("convnextv2_atto", 1)


def test_classes_that_contradict_each_other(cli, photos, tmp_path):
    from PIL import Image

    for name in ("train/cat", "train/dog", "val/cat", "val/cow"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / name / "0.png")
    argv = ("finetune", *FINETUNE, "--model", "atto", "--batch_size", "1")
    code, _, err = cli(*argv, "--data_path", tmp_path)
    assert code == 2 and "val: 1 of its folders stand for none of the 2 classes that are known (cat, dog): cow" in err
    out = ("--output_dir", tmp_path / "out", "--disable_eval")
    assert cli(*argv, "--data_path", tmp_path, *out)[0] == 0
    (tmp_path / "train/dog").rename(tmp_path / "train/ant")
    code, _, err = cli(*argv, "--data_path", tmp_path, *out)
    assert code == 2 and "and the images have other classes (2 and 2): " in err and "lack ant" in err, err


def test_layouts_are_explained(cli, photos, tmp_path):
    argv = ("finetune", *FINETUNE, "--model", "atto")
    cases = [
        (
            (tmp_path / "none",),
            f"none: there is no such folder of images; --data_set IMNET expects {tmp_path}/none/train",
        ),
        ((photos / "train",), f"class folders right in {photos / 'train'} are --data_set image_folder"),
        ((photos, "--data_set", "image_folder"), "--eval_data_path), or --disable_eval"),
        (
            (photos, "--data_set", "image_folder", "--eval_data_path", "no"),
            "expects CLASS/IMAGE in --data_path, and in",
        ),
    ]
    for (path, *rest), message in cases:
        code, _, err = cli(*argv, "--data_path", path, *rest)
        assert code == 2 and message in err and err.count("\n") == 1, err
    (tmp_path / "train").symlink_to(photos / "train")
    code, _, err = cli(*argv, "--data_path", tmp_path)
    assert code == 2 and "val: there is no such folder" in err and "(--disable_eval does without val)" in err


def test_a_size_that_no_name_stands_for(cli, photos, tmp_path):
    model = cf.models.convnextv2.ConvNeXtV2(depths=[1, 1, 1, 1], dims=[8, 8, 8, 8], num_classes=2)
    torch.save({"model": model.state_dict()}, tmp_path / "own.pth")
    code, _, err = cli("finetune", "--data_path", photos, *FINETUNE, "--finetune", tmp_path / "own.pth")
    assert code == 2 and "depths (1, 1, 1, 1) and dims (8, 8, 8, 8)" in err and "not one of the sizes" in err
