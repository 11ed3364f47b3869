"""One numbering of classes: the training images', or the checkpoint's; and pictures that links would count twice."""

import shutil

import pytest
import torch
from PIL import Image

from convnextv2_fast.train import FinetuneConfig, TrainingError, hub, labelled, saving, tables

from .conftest import records
from .test_evaluation import EVALUATE
from .test_finetune import FINETUNE


def folders(root, *names: str, images: int = 1):
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(images):
            Image.new("RGB", (40, 40), (60 * i, 9, 9)).save(root / name / f"{i}.png")
    return root


@pytest.mark.parametrize("data_set", ["IMNET", "image_folder"])
def test_validation_images_are_numbered_by_the_training_images(tmp_path, data_set):
    folders(tmp_path, "train/ant", "train/bee", "train/cat", "val/bee", "val/cat")
    (tmp_path / "val/ant").mkdir()  # without an image
    path = tmp_path if data_set == "IMNET" else tmp_path / "train"
    config = FinetuneConfig(data_path=path, data_set=data_set, eval_data_path=tmp_path / "val")
    train = labelled.table(config, True)
    val = labelled.table(config, False, train.classes)
    assert train.labels == [0, 1, 2] and val.labels == [1, 2] and val.classes == ["ant", "bee", "cat"]
    assert labelled.absent(val) == ["ant"] and not labelled.absent(train)
    assert labelled.classes(config, (train, val)) == (["ant", "bee", "cat"], 3)
    folders(tmp_path, "val/wolf", "val/yak")
    with pytest.raises(TrainingError, match=r"val: 2 of its folders stand for none of the 3 classes .*: wolf, yak$"):
        labelled.table(config, False, train.classes)


def test_what_val_lacks_is_said_once(cli, tmp_path):
    folders(tmp_path, "train/ant", "train/bee", "val/bee")
    argv = ("finetune", *FINETUNE, "--model", "atto", "--batch_size", "2", "--nb_classes", "2")
    code, _, err = cli(*argv, "--data_path", tmp_path, "--epochs", "2", "--output_dir", tmp_path / "out")
    assert code == 0 and err.count("the validation images lack 1 of 2 classes: ant\n") == 1, err
    assert saving.read(tmp_path / "out/checkpoint-1.pth")["classes"] == ["ant", "bee"]
    assert len(records(tmp_path / "out", "log.txt")) == 2


def test_an_evaluation_is_numbered_by_the_checkpoint(cli, tmp_path):
    """The head always answers its second class: all right for images of that class, whatever else is there."""
    from convnextv2_fast.models.convnextv2 import convnextv2_atto

    state = convnextv2_atto(num_classes=2).state_dict()
    state["head.weight"].zero_(), state["head.bias"].copy_(torch.tensor([0.0, 9.0]))
    saving.write({"model": state, "classes": ["ant", "bee"]}, tmp_path / "m.pth")
    folders(tmp_path, "val/bee")
    argv = ("finetune", "--data_path", tmp_path, *EVALUATE, "--input_size", "32", "--resume", tmp_path / "m.pth")
    code, out, err = cli(*argv)
    assert code == 0 and "top-1 100.00 %" in out and "lack 1 of 2 classes: ant" in err, err
    folders(tmp_path, "val/cow")
    code, _, err = cli(*argv)
    assert code == 2 and "(ant, bee): cow" in err and err.count("\n") == 1, err


@pytest.fixture
def dataset(tmp_path):
    """`dataset(split, label feature, labels)` adds a split to a dataset on the disk, and gives its options."""
    datasets = pytest.importorskip("datasets")
    picture = tmp_path / "0.png"
    Image.new("RGB", (40, 40)).save(picture)
    splits = {}

    def add(split: str, feature, values: list) -> FinetuneConfig:
        rows = {"image": [{"bytes": picture.read_bytes(), "path": None}] * len(values)}
        features = {"image": datasets.Image()}
        if feature is not None:
            rows["label"], features["label"] = values, feature
        splits[split] = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        datasets.DatasetDict(splits).save_to_disk(tmp_path / f"saved{len(splits)}")
        return FinetuneConfig(data_path=tmp_path / f"saved{len(splits)}", data_set="hf")

    return add


def labels(table) -> list[int]:
    return [table.read(i)[1] for i in range(len(table))]


@pytest.mark.parametrize("kind", ["names", "texts"])
def test_labels_of_a_hub_dataset_go_by_name(dataset, kind):
    datasets = pytest.importorskip("datasets")
    if kind == "names":
        dataset("train", datasets.ClassLabel(names=["cat", "ant", "bee"]), [0, 1, 2])
        config = dataset("validation", datasets.ClassLabel(names=["bee", "cat"]), [0, 1])
        want, there = ["cat", "ant", "bee"], [2, 0]
    else:
        dataset("train", datasets.Value("string"), ["cat", "ant", "bee"])
        config = dataset("validation", datasets.Value("string"), ["bee", "cat"])
        want, there = ["ant", "bee", "cat"], [1, 2]
    train = labelled.table(config, True)
    val = labelled.table(config, False, train.classes)
    assert train.classes == val.classes == want and labels(val) == there
    with pytest.raises(TrainingError, match=r"validation'\): 1 of its labels are none of the 2 classes: bee"):
        labelled.table(config, False, ["ant", "cat"])


def test_labels_that_are_not_there(dataset):
    datasets = pytest.importorskip("datasets")
    config = dataset("train", None, [0])
    with pytest.raises(TrainingError, match=r"no column 'label' \(--label_key\); it has image"):
        labelled.table(config, True)
    assert hub.HubTable(config, "train").read(0)[1] == 0  # pre-training needs none
    config = dataset("train", datasets.ClassLabel(names=["a", "b"]), [0, -1, None])
    table = labelled.table(config, True)
    for i, label in ((1, "-1"), (2, "None")):
        with pytest.raises(TrainingError, match=f"its label, {label}, is none of the classes"):
            table.read(i)


def test_whole_floats_are_labels(dataset):
    datasets = pytest.importorskip("datasets")
    table = labelled.table(dataset("train", datasets.Value("float32"), [0.0, 2.0, 0.5, float("nan")]), True)
    assert [table.read(i)[1] for i in (0, 1)] == [0, 2] and isinstance(table.read(1)[1], int)
    for i, label in ((2, "0.5"), (3, "nan")):
        with pytest.raises(TrainingError, match=f"its label, {label}, is no whole number"):
            table.read(i)


def test_numbers_without_names_are_checked():
    labelled.check_labels(torch.tensor([0, 4]), 5)
    for bad in ([0, 5], [-1, 2]):
        with pytest.raises(TrainingError, match=r"labels from .* with 5 classes they go from 0 to 4"):
            labelled.check_labels(torch.tensor(bad), 5)


def test_a_link_to_a_picture_is_no_second_picture(tmp_path):
    folders(tmp_path, "b", images=2)
    (tmp_path / "a").mkdir()
    for i, target in enumerate(["../b/0.png", "../b/0.png", "2.png"]):  # the last one to itself
        (tmp_path / f"a/{i}.png").symlink_to(target)
    shutil.copy(tmp_path / "b/0.png", tmp_path.parent / f"{tmp_path.name}.png")
    (tmp_path / "c").symlink_to("b")
    for name in ("x.png", "y.png"):
        (tmp_path / name).symlink_to(tmp_path.parent / f"{tmp_path.name}.png")
    found = [str(path.relative_to(tmp_path)) for path in tables.images_below(tmp_path)]
    assert found == ["x.png", "a/2.png", "b/0.png", "b/1.png"]


@pytest.mark.parametrize("link", ["cat/more", "cow", "cat/9.png"])
def test_a_picture_in_two_classes_is_an_error(tmp_path, link):
    folders(tmp_path, "cat", "dog")
    (tmp_path / link).symlink_to(tmp_path / ("dog/0.png" if link.endswith("png") else "dog"))
    with pytest.raises(TrainingError, match=r"0\.png are one picture in two classes; remove one of the links"):
        tables.Folder(tmp_path, labelled=True)
