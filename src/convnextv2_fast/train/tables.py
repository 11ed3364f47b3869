"""Tables of images, which can be read in any order: folders, and Hugging Face datasets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from ..checkpoints.files import first_line
from ..errors import TrainingError
from .config import TrainConfig
from .libraries import need

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
LONGEST = 50  # sides of an image to each other, when it is resized by the shorter one
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of Pillow, by channels


class Table(Protocol):
    """Images that can be read in any order."""

    classes: list[str]

    def __len__(self) -> int: ...
    def name(self, index: int) -> str: ...
    def read(self, index: int) -> tuple[Any, int]:
        """A decoded Pillow image and its label; any exception means that it is unreadable."""
        ...


def decode(file: Any, channels: int) -> Any:
    """A Pillow image from a path or an open file, wholly decoded.

    Raises:
        Exception: of any kind, where it is no readable image.
    """
    from PIL import Image

    with Image.open(file) as image:
        return image.convert(MODES[channels])


def unreadable(file: Path, error: Exception) -> str:
    """What to say of a file that :func:`decode` could not read."""
    if not file.exists():
        return f"{file}: no such file or folder"
    return f"{file}: cannot be read as an image: {first_line(error)}"


def middle(image: Any) -> Any:
    """The middle of an image that is more than :data:`LONGEST` times as long as wide, any other as it is. What follows
    resizes by the shorter side and cuts the middle out: of a thin line it would make gigabytes to throw away."""
    wide, high = image.size
    if max(wide, high) <= LONGEST * min(wide, high):
        return image
    width, height = min(wide, LONGEST * high), min(high, LONGEST * wide)
    left, top = (wide - width) // 2, (high - height) // 2
    return image.crop((left, top, left + width, top + height))


class Folder:
    """Every image below a folder, in sorted order.

    Args:
        labelled: then the first level are the classes, as in torchvision's ImageFolder.
        expected: what errors say of the layout that was expected.
    Raises:
        TrainingError: no such folder, or none that holds images (or classes).
    """

    def __init__(self, root: Path, channels: int = 3, labelled: bool = False, expected: str = "") -> None:
        need("PIL")
        expected = f"; {expected}" if expected else ""
        if not root.is_dir():
            raise TrainingError(f"{root}: there is no such folder of images{expected}")
        self.channels, self.classes = channels, []
        if labelled:
            self.classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not hidden(entry.name))
            found = [(p, i) for i, name in enumerate(self.classes) for p in images_below(root / name)]
            empty = sorted(set(range(len(self.classes))) - {i for _, i in found})
            if self.classes and empty:
                names = ", ".join(self.classes[i] for i in empty[:5])
                raise TrainingError(f"{root}: {len(empty)} of its class folders hold no image: {names}")
        else:
            found = [(p, 0) for p in images_below(root)]
        if not found:
            inside = "class folders with images" if labelled else "images"
            raise TrainingError(f"{root}: holds no {inside} ({', '.join(EXTENSIONS)}){expected}")
        self.paths, self.labels = [p for p, _ in found], [i for _, i in found]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def read(self, index: int) -> tuple[Any, int]:
        return decode(self.paths[index], self.channels), self.labels[index]


def hidden(name: str) -> bool:
    """Editors, notebooks and macOS leave such files and folders behind, some of them copies of images."""
    return name.startswith(".")


def images_below(root: Path) -> list[Path]:
    """In sorted order, without hidden ones. Links are followed, each folder once, and never back up."""
    found: list[Path] = []
    seen = {os.path.realpath(parent) for parent in Path(os.path.abspath(root)).parents}
    for folder, inside, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            inside.clear()
            continue
        seen.add(real)
        inside[:] = sorted(name for name in inside if not hidden(name))
        found += [Path(folder) / n for n in sorted(names) if n.lower().endswith(EXTENSIONS) and not hidden(n)]
    return found


def expand(paths: Sequence[Path]) -> list[Path]:
    """Image files as they are given, folders as the images below them.

    Raises:
        TrainingError: a folder without images.
    """
    files: list[Path] = []
    for path in paths:
        below = images_below(path) if path.is_dir() else [path]
        if not below:
            raise TrainingError(f"{path}: holds no images ({', '.join(EXTENSIONS)})")
        files += below
    return files


class HubTable:
    """A Hugging Face dataset: a name of the hub, a local folder of its files, or what `save_to_disk` wrote."""

    def __init__(self, config: TrainConfig, split: str, channels: int = 3) -> None:
        self.key, self.label_key, self.channels = config.image_key, config.label_key, channels
        self.rows = undecoded(open_hub(config, split, streaming=False), config)
        label = self.rows.features.get(self.label_key)
        self.classes = list(getattr(label, "names", None) or [])
        self.split = split

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return self.rows[index][self.key].get("path") or f"{self.split}[{index}]"

    def read(self, index: int) -> tuple[Any, int]:
        row = self.rows[index]
        return decode(hub_file(row[self.key]), self.channels), int(row.get(self.label_key) or 0)


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
    import io

    return io.BytesIO(cell["bytes"]) if cell.get("bytes") is not None else cell["path"]
