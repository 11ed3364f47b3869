"""Labelled images of fine-tuning: where they lie, which classes they have.

The training images number the classes. The validation images are numbered by the same names, never by their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints.files import first_line
from ..errors import TrainingError
from .finetune_config import FinetuneConfig
from .hub import HubTable
from .images import convert, read_as
from .libraries import need
from .tables import Folder, Table, hidden, images_below, some


def table(config: FinetuneConfig, train: bool, names: Sequence[str] | None = None) -> Table:
    """The training or the validation images of `--data_set`.

    Args:
        names: those of the classes by label, where they are known; None: the images tell them.
    Raises:
        TrainingError: not there (the message says which layout was expected), or of a class that is none of `names`.
    """
    channels, value_range = read_as(config.channels), config.value_range
    data = Path(config.data_path)
    if config.data_set == "hf":
        return HubTable(config, config.split if train else config.eval_split, channels, True, names)
    if config.data_set == "CIFAR":
        return Cifar(data, train, channels, names)
    if config.data_set == "image_folder":
        held_out = config.eval_data_path
        if not train and not held_out:
            raise TrainingError(
                "--data_set image_folder: say where the validation images are (--eval_data_path), or --disable_eval"
            )
        expected = "--data_set image_folder expects CLASS/IMAGE in --data_path, and in --eval_data_path"
        root = data if train or not held_out else Path(held_out)
        return Folder(root, channels, True, expected, value_range, names)
    root = data / ("train" if train else "val")
    expected = f"--data_set IMNET expects {data / 'train'}/CLASS/IMAGE and {data / 'val'}/CLASS/IMAGE"
    if train and not root.is_dir() and _has_classes(data):
        expected += f"; class folders right in {data} are --data_set image_folder"
    elif not train:
        expected += " (--disable_eval does without val)"
    return Folder(root if data.is_dir() else data, channels, True, expected, value_range, names)


def _has_classes(folder: Path) -> bool:
    return folder.is_dir() and any(
        entry.is_dir() and not hidden(entry.name) and images_below(entry) for entry in folder.iterdir()
    )


def classes(config: FinetuneConfig, tables: Sequence[Table | None]) -> tuple[list[str], int]:
    """The names of the classes, empty where they have none, and the number of classes.

    Raises:
        TrainingError: the tables contradict each other, or `--nb_classes`; or nothing says how many there are.
    """
    named = [t for t in tables if t is not None and t.classes]
    if not named:
        if config.nb_classes is None:
            raise TrainingError(f"{config.data_path}: its labels have no names, so say how many: --nb_classes N")
        return [], config.nb_classes
    names = named[0].classes
    for other in named[1:]:
        check_names("the training images", names, "the validation images", other.classes)
    if config.nb_classes not in (None, len(names)):
        raise TrainingError(
            f"{config.data_path}: has {len(names)} classes, --nb_classes says {config.nb_classes}; without "
            f"--nb_classes they are counted ({some(names)})"
        )
    return names, len(names)


def check_names(first: str, names: Sequence[str], second: str, others: Sequence[str]) -> None:
    """Raises TrainingError where two lists of class names differ; `first` and `second` say whose they are."""
    if list(names) == list(others):
        return
    lacking = {first: [n for n in others if n not in set(names)], second: [n for n in names if n not in set(others)]}
    said = [f"{who} lack {some(missing)}" for who, missing in lacking.items() if missing]
    why = "; ".join(said) or "they are in another order"
    raise TrainingError(f"{first} and {second} have other classes ({len(names)} and {len(others)}): {why}")


def absent(images: Table) -> list[str]:
    """The classes of which a table of folders has no image."""
    there = set(images.labels) if isinstance(images, Folder) else set(range(len(images.classes)))
    return [name for label, name in enumerate(images.classes) if label not in there]


def check_labels(labels: Tensor, number: int) -> None:
    """Labels without names are only known when they are read.

    Raises:
        TrainingError: one is not below the number of classes.
    """
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < number:
        raise TrainingError(
            f"labels from {int(labels.min())} to {int(labels.max())}: with {number} classes they go from 0 to "
            f"{number - 1}; --nb_classes says how many there are"
        )


class Cifar:
    """CIFAR-100, through torchvision; downloaded if it is not there."""

    def __init__(self, root: Path, train: bool, channels: int = 3, names: Sequence[str] | None = None) -> None:
        try:
            self.rows = need("torchvision.datasets").CIFAR100(str(root), train=train, download=True)
        except (OSError, RuntimeError) as error:
            raise TrainingError(f"{root}: CIFAR-100 is not there: {first_line(error)}") from error
        self.classes, self.channels = self.rows.classes, channels
        if names:
            check_names("the classes that are known", names, "CIFAR-100's images", self.classes)

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return f"CIFAR-100[{index}]"

    def read(self, index: int) -> tuple[Any, int]:
        image, label = self.rows[index]
        return convert(image, self.channels), label
