"""Labelled images of fine-tuning: where they lie, which classes they have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoints.files import first_line
from ..errors import TrainingError
from .finetune_config import FinetuneConfig
from .libraries import need
from .tables import MODES, Folder, HubTable, Table, hidden, images_below

SHOWN = 5  # names of classes in a message


def table(config: FinetuneConfig, train: bool) -> Table:
    """The training or the validation images of `--data_set`. Grey images (`--in_chans 1`) are read as RGB: the
    transforms make them grey.

    Raises:
        TrainingError: not there. The message says which layout was expected.
    """
    channels = 4 if config.in_chans == 4 else 3
    data = Path(config.data_path)
    if config.data_set == "hf":
        return HubTable(config, config.split if train else config.eval_split, channels)
    if config.data_set == "CIFAR":
        return Cifar(data, train, channels)
    if config.data_set == "image_folder":
        held_out = config.eval_data_path
        if not train and not held_out:
            raise TrainingError(
                "--data_set image_folder: say where the validation images are (--eval_data_path), or --disable_eval"
            )
        expected = "--data_set image_folder expects CLASS/IMAGE in --data_path, and in --eval_data_path"
        return Folder(data if train or not held_out else Path(held_out), channels, True, expected)
    root = data / ("train" if train else "val")
    expected = f"--data_set IMNET expects {data / 'train'}/CLASS/IMAGE and {data / 'val'}/CLASS/IMAGE"
    if train and not root.is_dir() and _has_classes(data):
        expected += f"; class folders right in {data} are --data_set image_folder"
    elif not train:
        expected += " (--disable_eval does without val)"
    return Folder(root if data.is_dir() else data, channels, True, expected)


def _has_classes(folder: Path) -> bool:
    return folder.is_dir() and any(
        entry.is_dir() and not hidden(entry.name) and images_below(entry) for entry in folder.iterdir()
    )


def classes(config: FinetuneConfig, tables: Sequence[Table | None]) -> tuple[list[str], int]:
    """The names that these tables agree on, empty where they have none, and the number of classes.

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


def some(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest


class Cifar:
    """CIFAR-100, through torchvision; downloaded if it is not there."""

    def __init__(self, root: Path, train: bool, channels: int = 3) -> None:
        try:
            self.rows = need("torchvision.datasets").CIFAR100(str(root), train=train, download=True)
        except (OSError, RuntimeError) as error:
            raise TrainingError(f"{root}: CIFAR-100 is not there: {first_line(error)}") from error
        self.classes, self.mode = self.rows.classes, MODES[channels]

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return f"CIFAR-100[{index}]"

    def read(self, index: int) -> tuple[Any, int]:
        image, label = self.rows[index]
        return image.convert(self.mode), label
