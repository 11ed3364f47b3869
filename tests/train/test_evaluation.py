"""Evaluation: which images count, with which weights, prepared in which way."""

import re
import shutil

import pytest
import torch

from convnextv2_fast.models.convnextv2 import ConvNeXtV2, convnextv2_atto
from convnextv2_fast.train import TrainingError, augment, data, finetuning, saving, start, tables
from convnextv2_fast.train.parallel import Processes

from .test_augment import configured

ALONE = Processes(0, 1, torch.device("cpu"))
EVALUATE = ("--batch_size", "2", "--num_workers", "0", "--device", "cpu", "--eval")


@pytest.fixture
def damaged(photos, tmp_path):
    """The photographs, with two more for validation that cannot be read."""
    shutil.copytree(photos / "val", tmp_path / "data/val")
    for name in ("chelsea", "rocket"):
        (tmp_path / f"data/val/{name}/0.png").write_bytes(b"no image")
    return tmp_path / "data"


def measured(folder, say, told, batch: int, classes: int = 3) -> dict[str, float]:
    torch.manual_seed(0)
    model = ConvNeXtV2(depths=[1, 1, 1, 1], dims=[8, 8, 8, 8], num_classes=classes, head_init_scale=30.0)
    config = configured(nb_classes=classes)
    table = tables.Folder(folder, labelled=True)
    batches = data.evaluation_batches(
        table, augment.evaluation_transform(config.preprocessing, 3), batch, ALONE, 0, False
    )
    return finetuning.evaluate(config, ALONE, batches, told, model, say)


@pytest.mark.parametrize("batch", [1, 4])
def test_unreadable_images_do_not_count(photos, damaged, batch):
    """A batch of one can become empty."""
    said: list[str] = []
    told: set[str] = set()
    want = measured(photos / "val", said.append, told, batch)
    assert not said and want.keys() == {"loss", "acc1"}
    for _ in range(2):  # named once, counted each time
        found = measured(damaged / "val", said.append, told, batch)
        assert found == pytest.approx({**want, "unreadable": 2})
    assert len(said) == 2 and "validation image left out, 1 so far: " in said[0] and "chelsea/0.png: cannot" in said[0]
    for path in damaged.rglob("3.png"):
        path.write_bytes(b"no image")
    with pytest.raises(TrainingError, match="none of the 5 validation images can be read"):
        measured(damaged / "val", said.append, told, batch)


def test_five_answers_of_more_than_five_classes(photos):
    assert measured(photos / "val", print, set(), 3, classes=5).keys() == {"loss", "acc1"}
    assert measured(photos / "val", print, set(), 3, classes=6).keys() == {"loss", "acc1", "acc5"}


def written(path, classes: int | None, **args):
    torch.manual_seed(0)
    state = convnextv2_atto(num_classes=classes or 3, head_init_scale=30.0).state_dict()
    if classes is None:
        state = {name: value for name, value in state.items() if not name.startswith("head")}
    content = {"model": state, "args": args}
    saving.write(content | ({"classes": ["chelsea", "coffee", "rocket"]} if classes == 3 else {}), path)
    return path


def test_what_eval_says(cli, damaged, tmp_path):
    whole = written(tmp_path / "whole.pth", 3, input_size=32)
    code, out, err = cli("finetune", "--data_path", damaged, *EVALUATE, "--resume", whole)
    assert code == 0 and re.fullmatch(r"loss \S+  top-1 \S+ %  \(2 unreadable images left out\)\n", out), out
    assert err.count("warning: unreadable validation image left out") == 2


@pytest.mark.parametrize("classes", [None, 5])
def test_a_head_of_random_values_is_not_measured(cli, photos, tmp_path, classes):
    file = written(tmp_path / "other.pth", classes)
    code, out, err = cli("finetune", "--data_path", photos, *EVALUATE, "--input_size", "32", "--finetune", file)
    assert code == 2 and not out and "does not fit the model" in err, err


def test_the_checkpoints_preprocessing_is_adopted(photos, tmp_path):
    stored = {"input_size": 64, "crop_pct": 0.5, "imagenet_default_mean_and_std": False}
    file = str(written(tmp_path / "whole.pth", 3, **stored))
    bare = {"eval": True, "resume": file, "input_size": None}
    found, weights = start.adopt(configured(**bare))
    assert weights is not None
    assert {name: getattr(found, name) for name in stored} == stored and found.model == "convnextv2_atto"
    found, _ = start.adopt(configured(**bare | {"input_size": 96, "imagenet_default_mean_and_std": True}))
    assert (found.input_size, found.crop_pct, found.imagenet_default_mean_and_std) == (96, 0.5, True)
    found, _ = start.adopt(configured(finetune=file, input_size=None))  # to be trained: at the size of this command
    assert (found.input_size, found.crop_pct, found.imagenet_default_mean_and_std) == (224, None, True)
