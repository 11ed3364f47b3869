"""Samples of a run from tables of images (folders, Hugging Face datasets), in an order that only the seed decides."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from ..checkpoints.files import first_line
from . import TrainingError
from .parallel import Processes
from .saving import Position

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
GIVE_UP = 50  # unreadable images in a row
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of Pillow, by channels

Transform = Callable[[Any], Tensor]
Failure = tuple[str, str]  # an image's name, and what is wrong with it


@dataclass
class Batch:
    """One process's part of a step: images `[B, C, H, W]`, labels int64 `[B]`, and what could not be read for it."""

    images: Tensor
    labels: Tensor
    failures: list[Failure] = field(default_factory=list)
    taken: tuple[int, int] | None = None  # of streams: which one, and how far it has been read in this epoch

    def pin_memory(self) -> Batch:
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.failures, self.taken)

    def to(self, device: torch.device) -> Batch:
        moved = (t.to(device, non_blocking=True) for t in (self.images, self.labels))
        return Batch(*moved, self.failures, self.taken)


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


class Folder:
    """Every image below a folder, in sorted order.

    Args:
        labelled: then the first level are the classes, as in torchvision's ImageFolder.
    Raises:
        TrainingError: no such folder, or none that holds images (or classes).
    """

    def __init__(self, root: Path, channels: int = 3, labelled: bool = False) -> None:
        if not root.is_dir():
            raise TrainingError(f"{root}: there is no such folder of images")
        self.channels, self.classes = channels, []
        if labelled:
            self.classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
            found = [(p, i) for i, name in enumerate(self.classes) for p in _images(root / name)]
            empty = sorted(set(range(len(self.classes))) - {i for _, i in found})
            if self.classes and empty:
                names = ", ".join(self.classes[i] for i in empty[:5])
                raise TrainingError(f"{root}: {len(empty)} of its class folders hold no image: {names}")
        else:
            found = [(p, 0) for p in _images(root)]
        if not found:
            inside = "class folders with images" if labelled else "images"
            raise TrainingError(f"{root}: holds no {inside} ({', '.join(EXTENSIONS)})")
        self.paths, self.labels = [p for p, _ in found], [i for _, i in found]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def read(self, index: int) -> tuple[Any, int]:
        return decode(self.paths[index], self.channels), self.labels[index]


def _images(root: Path) -> list[Path]:
    found = []
    for folder, inside, names in os.walk(root, followlinks=True):
        inside.sort()
        found += [Path(folder) / name for name in sorted(names) if name.lower().endswith(EXTENSIONS)]
    return found


class HubTable:
    """A Hugging Face dataset: a name of the hub, a local folder of its files, or what `save_to_disk` wrote."""

    def __init__(self, args: Any, split: str, channels: int = 3) -> None:
        self.key, self.label_key, self.channels = args.image_key, args.label_key, channels
        self.rows = undecoded(open_hub(args, split, streaming=False), args)
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


def open_hub(args: Any, split: str, streaming: bool) -> Any:
    """`datasets.load_dataset`, or `load_from_disk` where that is what lies there.

    Raises:
        TrainingError: datasets is not installed, or cannot open it.
    """
    try:
        import datasets
    except ImportError as error:
        raise TrainingError(f"--data_set {args.data_set} needs the package datasets: pip install datasets") from error
    try:
        if (Path(args.data_path) / "dataset_dict.json").is_file():
            return datasets.load_from_disk(args.data_path)[split]
        if (Path(args.data_path) / "state.json").is_file():
            return datasets.load_from_disk(args.data_path)
        return datasets.load_dataset(args.data_path, split=split, streaming=streaming)
    except Exception as error:  # of the network, of pyarrow, of the files
        why = first_line(error)
        raise TrainingError(f"{args.data_path} (split {split!r}): datasets cannot open it: {why}") from error


def undecoded(rows: Any, args: Any) -> Any:
    """The same dataset, handing out the images' files instead of decoding them."""
    import datasets

    if rows.features is None or args.image_key not in rows.features:
        has = ", ".join(rows.features or ["nothing that is known beforehand"])
        raise TrainingError(f"{args.data_path}: has no column {args.image_key!r} (--image_key); it has {has}")
    return rows.cast_column(args.image_key, datasets.Image(decode=False))


def hub_file(cell: dict[str, Any]) -> Any:
    import io

    return io.BytesIO(cell["bytes"]) if cell.get("bytes") is not None else cell["path"]


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """torch, Python and NumPy draw from this key inside; a main process goes on afterwards as if nothing had been."""
    import numpy

    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    seed = int.from_bytes(digest, "big")
    ours = get_worker_info() is None
    kept = (torch.get_rng_state(), random.getstate(), numpy.random.get_state()) if ours else None
    torch.random.default_generator.manual_seed(seed)  # not the devices'
    random.seed(seed)
    numpy.random.seed(seed & 0xFFFFFFFF)
    try:
        yield
    finally:
        if kept is not None:
            torch.set_rng_state(kept[0])
            random.setstate(kept[1])
            numpy.random.set_state(kept[2])


Item = tuple[int, int, int]  # epoch, place in the epoch's order, index in the table


class Samples(Dataset):  # type: ignore[type-arg]
    """Reads and transforms; an unreadable image is replaced by the next readable one of the table, and named."""

    def __init__(self, table: Table, transform: Transform, seed: int) -> None:
        self.table, self.transform, self.seed = table, transform, seed

    def __getitem__(self, item: Item) -> tuple[Tensor, int, list[Failure]]:
        epoch, place, index = item
        failures: list[Failure] = []
        image = None
        while image is None:
            try:
                image, label = self.table.read(index)
            except Exception as error:  # whatever a decoder says of a damaged file
                failures.append((self.table.name(index), first_line(error)))
                if len(failures) >= min(GIVE_UP, len(self.table)):
                    last = ": ".join(failures[-1])
                    raise TrainingError(f"{len(failures)} images in a row cannot be read: {last}") from None
                index = (index + 1) % len(self.table)
        with seeded(self.seed, epoch, place):
            return self.transform(image), label, failures


def collate(samples: Sequence[tuple[Tensor, int, list[Failure]]]) -> Batch:
    images, labels, failures = zip(*samples, strict=True)
    return Batch(torch.stack(images), torch.tensor(labels), [failure for found in failures for failure in found])


@dataclass(frozen=True)
class Steps:
    """How a run's samples fall into optimizer steps: `accumulate` batches of every process each."""

    batch: int
    accumulate: int
    among: Processes
    seed: int
    epochs: int
    per_epoch: int  # steps
    start: Position = field(default_factory=Position)

    @property
    def images(self) -> int:
        """Of one step."""
        return self.batch * self.accumulate * self.among.size

    def place(self, part: int) -> int:
        """Of this process's batch `part` within the images of a step."""
        return (part * self.among.size + self.among.rank) * self.batch

    @staticmethod
    def count(samples: int, images: int) -> int:
        """Steps of an epoch.

        Raises:
            TrainingError: not enough samples for one.
        """
        if samples < images:
            raise TrainingError(
                f"{samples} images make no step of {images} (--batch_size x --update_freq x processes); "
                "lower --batch_size"
            )
        return samples // images


class Order(Sampler):  # type: ignore[type-arg]
    """This process's batches of a table, from the start to the end of the run. What does not fill a step is left out of
    its epoch."""

    def __init__(self, length: int, steps: Steps) -> None:
        self.length, self.steps = length, steps

    def __iter__(self) -> Iterator[list[Item]]:
        s = self.steps
        for epoch in range(s.start.epoch, s.epochs):
            drawn = torch.randperm(self.length, generator=torch.Generator().manual_seed(s.seed + epoch)).tolist()
            for step in range(s.start.step if epoch == s.start.epoch else 0, s.per_epoch):
                for part in range(s.accumulate):
                    first = step * s.images + s.place(part)
                    yield [(epoch, place, drawn[place]) for place in range(first, first + s.batch)]


class _Every(Sampler):  # type: ignore[type-arg]
    """Every sample of a table once, shared among processes."""

    def __init__(self, length: int, batch: int, among: Processes) -> None:
        self.mine, self.batch = range(among.rank, length, among.size), batch

    def __iter__(self) -> Iterator[list[Item]]:
        for i in range(0, len(self.mine), self.batch):
            yield [(0, index, index) for index in self.mine[i : i + self.batch]]

    def __len__(self) -> int:
        return -(-len(self.mine) // self.batch)


def _loader(samples: Samples, order: Any, workers: int, pin: bool) -> DataLoader[Any]:
    return DataLoader(
        samples,
        batch_sampler=order,
        num_workers=workers,
        pin_memory=pin,
        collate_fn=collate,
        generator=torch.Generator(),  # or it would draw from the run's own
    )


def plain_errors(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same; of a TrainingError in a loader process the message, without the traceback that torch adds."""
    try:
        yield from batches
    except TrainingError as error:
        raise TrainingError(str(error).strip().splitlines()[-1].rpartition("TrainingError: ")[2]) from None


def training_batches(table: Table, transform: Transform, steps: Steps, workers: int, pin: bool) -> Iterator[Batch]:
    """All batches of this process, in order."""
    return plain_errors(iter(_loader(Samples(table, transform, steps.seed), Order(len(table), steps), workers, pin)))


def evaluation_batches(
    table: Table, transform: Transform, batch: int, among: Processes, workers: int, pin: bool
) -> DataLoader[Any]:
    """Every sample once, over all processes together."""
    return _loader(Samples(table, transform, 0), _Every(len(table), batch, among), workers, pin)
