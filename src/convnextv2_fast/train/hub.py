"""Hugging Face datasets."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoints.files import first_line
from ..errors import TrainingError
from .config import TrainConfig
from .images import decode
from .tables import some


class HubTable:
    """A Hugging Face dataset: a name of the hub, a local folder of its files, or what `save_to_disk` wrote.

    Args:
        channels: of `images.decode`.
        labelled: whether its labels are read; else every label is 0.
        classes: names by label, where other images have given them: labels that have names are numbered by these.
    Raises:
        TrainingError: it cannot be opened, lacks a column, or has labels that are none of the classes.
    """

    def __init__(
        self,
        config: TrainConfig,
        split: str,
        channels: int = 3,
        labelled: bool = False,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.key, self.label_key, self.channels = config.image_key, config.label_key, channels
        self.value_range, self.split, self.labelled = config.value_range, split, labelled
        self.rows = undecoded(open_hub(config, split, streaming=False), config)
        self.classes: list[str] = []
        self._labels: dict[Any, int] | None = None  # by what the column holds; None: that is the label
        if labelled:
            self._number(f"{config.data_path} (split {split!r})", list(classes or []))

    def _number(self, what: str, classes: list[str]) -> None:
        column = self.rows.features.get(self.label_key)
        if column is None:
            has = ", ".join(self.rows.features)
            raise TrainingError(f"{what}: has no column {self.label_key!r} (--label_key); it has {has}")
        held = dict(enumerate(getattr(column, "names", None) or []))
        if not held and getattr(column, "dtype", "") in ("string", "large_string"):
            held = {
                name: name for name in sorted(name for name in self.rows.unique(self.label_key) if name is not None)
            }
        if not held:
            self.classes = classes
            return
        self.classes = classes or list(held.values())
        label = {name: i for i, name in enumerate(self.classes)}
        other = [name for name in held.values() if name not in label]
        if other:
            raise TrainingError(
                f"{what}: {len(other)} of its labels are none of the {len(label)} classes: {some(other)}"
            )
        self._labels = {value: label[name] for value, name in held.items()}

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return self.rows[index][self.key].get("path") or f"{self.split}[{index}]"

    def read(self, index: int) -> tuple[Any, int]:
        row = self.rows[index]
        return decode(hub_file(row[self.key]), self.channels, self.value_range), self._label(row)

    def _label(self, row: dict[str, Any]) -> int:
        if not self.labelled:
            return 0
        value = row[self.label_key]
        if self._labels is None and isinstance(value, float):
            if not value.is_integer():
                raise TrainingError(f"its label, {value!r}, is no whole number")
            return int(value)
        if self._labels is None and isinstance(value, int):
            return int(value)
        if self._labels is None or value not in self._labels:
            raise TrainingError(f"its label, {value!r}, is none of the classes")
        return self._labels[value]


def open_hub(config: TrainConfig, split: str, streaming: bool) -> Any:
    """`datasets.load_dataset`, or `load_from_disk` where that is what lies there.

    Raises:
        TrainingError: datasets is not installed, or cannot open it.
    """
    try:
        import datasets
    except ImportError as error:
        raise TrainingError(f"--data_set {config.data_set} needs the package datasets: pip install datasets") from error
    try:
        place = os.fspath(config.data_path)
        if (Path(place) / "dataset_dict.json").is_file():
            return datasets.load_from_disk(place)[split]
        if (Path(place) / "state.json").is_file():
            return datasets.load_from_disk(place)
        return datasets.load_dataset(place, split=split, streaming=streaming)
    except Exception as error:  # of the network, of pyarrow, of the files
        why = first_line(error)
        raise TrainingError(f"{config.data_path} (split {split!r}): datasets cannot open it: {why}") from error


def undecoded(rows: Any, config: TrainConfig) -> Any:
    """The same dataset, handing out the images' files instead of decoding them."""
    import datasets

    if rows.features is None or config.image_key not in rows.features:
        has = ", ".join(rows.features or ["nothing that is known beforehand"])
        raise TrainingError(f"{config.data_path}: has no column {config.image_key!r} (--image_key); it has {has}")
    return rows.cast_column(config.image_key, datasets.Image(decode=False))


def hub_file(cell: dict[str, Any]) -> Any:
    return io.BytesIO(cell["bytes"]) if cell.get("bytes") is not None else cell["path"]
