"""Tables of images, which can be read in any order; those of folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..errors import TrainingError
from .bands import Range
from .images import decode
from .libraries import need

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SHOWN = 5  # names in a message


class Table(Protocol):
    """Images that can be read in any order."""

    classes: list[str]  # names by label; empty: labels are numbers without names, or there are none

    def __len__(self) -> int: ...
    def name(self, index: int) -> str: ...
    def read(self, index: int) -> tuple[Any, int]:
        """What `images.decode` gives, and its label; any exception means that it is unreadable."""
        ...


class Folder:
    """Every image below a folder, in sorted order, each picture once.

    Args:
        channels, value_range: of `images.decode`.
        labelled: then the first level are the classes, as in torchvision's ImageFolder.
        expected: what errors say of the layout that was expected.
        classes: their names by label, where other images have given them. A folder of another name is an error, a class
            without a folder is none.
    Raises:
        TrainingError: no such folder, or none that holds images (or classes); or its classes cannot be told.
    """

    def __init__(
        self,
        root: Path,
        channels: int = 3,
        labelled: bool = False,
        expected: str = "",
        value_range: Range = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        need("PIL")
        expected = f"; {expected}" if expected else ""
        if not root.is_dir():
            raise TrainingError(f"{root}: there is no such folder of images{expected}")
        self.channels, self.value_range, self.classes = channels, value_range, list(classes or [])
        found = self._labelled(root) if labelled else [(path, 0) for path in images_below(root)]
        if not found:
            inside = "class folders with images" if labelled else "images"
            raise TrainingError(f"{root}: holds no {inside} ({', '.join(EXTENSIONS)}){expected}")
        self.paths, self.labels = [p for p, _ in found], [i for _, i in found]

    def _labelled(self, root: Path) -> list[tuple[Path, int]]:
        names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not hidden(entry.name))
        below = {name: list(pictures_below(root / name)) for name in names}
        empty = [name for name in names if not below[name]]
        if not self.classes and empty:
            raise TrainingError(f"{root}: {len(empty)} of its class folders hold no image: {some(empty)}")
        self.classes = self.classes or names
        label = {name: i for i, name in enumerate(self.classes)}
        other = [name for name in names if below[name] and name not in label]
        if other:
            raise TrainingError(
                f"{root}: {len(other)} of its folders stand for none of the {len(label)} classes that are known "
                f"({some(self.classes)}): {some(other)}"
            )
        owner: dict[str, Path] = {}
        for name in names:
            for path, real in below[name]:
                first = owner.setdefault(real, path)
                if first is not path:
                    raise TrainingError(f"{first} and {path} are one picture in two classes; remove one of the links")
        return [(path, label[name]) for name in names for path, _ in below[name]]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def read(self, index: int) -> tuple[Any, int]:
        return decode(self.paths[index], self.channels, self.value_range), self.labels[index]


def some(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest


def hidden(name: str) -> bool:
    """Editors, notebooks and macOS leave such files and folders behind, some of them copies of images."""
    return name.startswith(".")


def images_below(root: Path) -> list[Path]:
    """In sorted order, without hidden ones. Links are followed; each folder and each picture is taken once."""
    return [path for path, _ in pictures_below(root)]


def pictures_below(root: Path) -> Iterator[tuple[Path, str]]:
    """The paths of :func:`images_below`, with where the pictures really lie."""
    found = list(_walk(str(root), {os.path.realpath(parent) for parent in Path(os.path.abspath(root)).parents}))
    links = any(link for _, _, _, link in found)
    # A picture goes before the links to it, wherever they are met.
    taken = {os.path.join(real, name) for _, name, real, link in found if links and not link}
    for folder, name, real, link in found:
        where = os.path.realpath(os.path.join(folder, name)) if link else os.path.join(real, name)
        if link and where in taken:
            continue
        if link:
            taken.add(where)
        yield Path(folder, name), where


def _walk(folder: str, seen: set[str]) -> Iterator[tuple[str, str, str, bool]]:
    """Folder, name, the real folder, and whether it is a link, of each picture: those of a folder before those of the
    folders in it. What the system does not let us read is passed over."""
    real = os.path.realpath(folder)
    if real in seen:  # met by another link, or by one that leads back up
        return
    seen.add(real)
    try:
        with os.scandir(folder) as inside:
            entries = sorted((entry for entry in inside if not hidden(entry.name)), key=lambda entry: entry.name)
    except OSError:
        return
    below = []
    for entry in entries:
        if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():  # a link may lead to itself
            below.append(entry.path)
        elif entry.name.lower().endswith(EXTENSIONS):
            yield folder, entry.name, real, entry.is_symlink()
    for inner in below:
        yield from _walk(inner, seen)


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
