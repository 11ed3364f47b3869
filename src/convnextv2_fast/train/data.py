"""Samples of a run from tables of images, in an order that only the seed decides."""

from __future__ import annotations

import contextlib
import hashlib
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from ..checkpoints.files import first_line
from ..errors import TrainingError
from .parallel import Processes
from .saving import Position
from .tables import Table

GIVE_UP = 50  # unreadable images in a row

Transform = Callable[[Any], Tensor]
Failure = tuple[str, str]  # an image's name, and what is wrong with it


class Augment:
    """A random transform that cannot end a run: where it raises, the image gets the plain one.

    Args:
        random: draws crops, colours and so on. It may raise: libraries disagree about extreme values.
        plain: for those images: resized, cropped in the middle, normalised. None lets errors through.
    """

    def __init__(self, random: Transform, plain: Transform | None) -> None:
        self.random, self.plain, self._in_a_row = random, plain, 0

    def __call__(self, image: Any) -> tuple[Tensor, str | None]:
        """The tensor `[C, H, W]`, and why it is a plain one, where it is.

        Raises:
            TrainingError: the options do not suit the images, or the random transform failed for :data:`GIVE_UP`
                images in a row.
        """
        try:
            tensor = self.random(image)
        except TrainingError:  # of the options, not of this image
            raise
        except Exception as error:  # of Pillow, torchvision or timm
            if self.plain is None:
                raise
            self._in_a_row += 1
            reason = f"{type(error).__name__}: {first_line(error)}"
            if self._in_a_row >= GIVE_UP:
                raise TrainingError(f"{GIVE_UP} images in a row cannot be augmented: {reason}") from None
            return self.plain(image), reason
        self._in_a_row = 0
        return tensor, None


def careful(transform: Transform | Augment) -> Augment:
    return transform if isinstance(transform, Augment) else Augment(transform, None)


@dataclass
class Batch:
    """One process's part of a step: images `[B, C, H, W]`, labels int64 `[B]`, what could not be read for it, and
    which of its images could not be augmented."""

    images: Tensor
    labels: Tensor
    failures: list[Failure] = field(default_factory=list)
    plain: list[Failure] = field(default_factory=list)
    taken: tuple[int, int] | None = None  # of streams: which one, and how far it has been read in this epoch

    def pin_memory(self) -> Batch:
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory())

    def to(self, device: torch.device) -> Batch:
        images, labels = (t.to(device, non_blocking=True) for t in (self.images, self.labels))
        return replace(self, images=images, labels=labels)


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


# image [C, H, W], label, what was unreadable, not augmented; no image: it is left out of its batch
Sample = tuple[Tensor | None, int, list[Failure], list[Failure]]


class Samples(Dataset[Sample]):
    """Reads and transforms; an unreadable image is replaced by the next readable one of the table, and named."""

    def __init__(self, table: Table, transform: Transform | Augment, seed: int) -> None:
        self.table, self.seed, self.transform = table, seed, careful(transform)

    def __getitem__(self, item: Item) -> Sample:
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
            tensor, reason = self.transform(image)
        return tensor, label, failures, [(self.table.name(index), reason)] if reason else []


class Once(Samples):
    """For measuring: an unreadable image is named and left out, since another in its place would count twice."""

    def __getitem__(self, item: Item) -> Sample:
        try:
            image, label = self.table.read(item[2])
        except Exception as error:  # whatever a decoder says of a damaged file
            return None, 0, [(self.table.name(item[2]), first_line(error))], []
        return self.transform(image)[0], label, [], []


def collate(samples: Sequence[Sample]) -> Batch:
    """A batch of those that have an image, perhaps of none."""
    failed = [failure for _, _, failures, _ in samples for failure in failures]
    plain = [failure for _, _, _, failures in samples for failure in failures]
    whole = [(image, label) for image, label, _, _ in samples if image is not None]
    images = torch.stack([image for image, _ in whole]) if whole else torch.empty(0)
    return Batch(images, torch.tensor([label for _, label in whole]), failed, plain)


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
                f"{samples} images are too few for a step of {images} (--batch_size x --update_freq x processes); "
                "lower --batch_size"
            )
        return samples // images


class Order(Sampler[list[Item]]):
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


class _Every(Sampler[list[Item]]):
    """Every sample of a table once, shared among processes."""

    def __init__(self, length: int, batch: int, among: Processes) -> None:
        self.mine, self.batch = range(among.rank, length, among.size), batch

    def __iter__(self) -> Iterator[list[Item]]:
        for i in range(0, len(self.mine), self.batch):
            yield [(0, index, index) for index in self.mine[i : i + self.batch]]

    def __len__(self) -> int:
        return -(-len(self.mine) // self.batch)


def leave_signals(worker: int) -> None:
    """In a loader process: Ctrl-C reaches every process of a terminal, and the main one decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _loader(samples: Samples, order: Sampler[list[Item]], workers: int, pin: bool) -> DataLoader[Any]:
    return DataLoader(
        samples,
        batch_sampler=order,
        num_workers=workers,
        pin_memory=pin,
        collate_fn=collate,
        worker_init_fn=leave_signals,
        generator=torch.Generator(),  # or it would draw from the run's own
    )


def plain_errors(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same; of a TrainingError in a loader process the message, without the traceback that torch adds."""
    try:
        yield from batches
    except TrainingError as error:
        raise TrainingError(str(error).strip().splitlines()[-1].rpartition("TrainingError: ")[2]) from None


def training_batches(
    table: Table, transform: Transform | Augment, steps: Steps, workers: int, pin: bool
) -> Iterator[Batch]:
    """All batches of this process, in order."""
    return plain_errors(iter(_loader(Samples(table, transform, steps.seed), Order(len(table), steps), workers, pin)))


def evaluation_batches(
    table: Table, transform: Transform | Augment, batch: int, among: Processes, workers: int, pin: bool
) -> DataLoader[Any]:
    """Every sample that can be read once, over all processes together; a batch can be empty."""
    return _loader(Once(table, transform, 0), _Every(len(table), batch, among), workers, pin)
