"""Samples of a run from streams: webdataset's tar shards, Hugging Face datasets that are read as they come.

A stream is read by parts, one for each process and loader worker. The order within a part depends on the seed and the
epoch alone, and every batch says how far its part has been read: so a run goes on where it was stopped, without
decoding what it has had.
"""

from __future__ import annotations

import functools
import glob
import io
import itertools
import random
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..checkpoints.files import first_line
from ..errors import TrainingError
from .bands import Range
from .config import TrainConfig
from .data import (
    GIVE_UP,
    Augment,
    Batch,
    Failure,
    Steps,
    Transform,
    careful,
    collate,
    leave_signals,
    plain_errors,
    seeded,
)
from .hub import hub_file, open_hub, undecoded
from .images import decode
from .tables import EXTENSIONS

SHUFFLED = 1000  # samples that a part holds to draw from
Raw = tuple[str, Any, int]  # name, image file, label


class Source(Protocol):
    def open(self, seed: int, epoch: int, part: int, parts: int) -> Iterable[Raw]:
        """One pass over a part, in the order of this seed and epoch."""
        ...


class Shards:
    """Tar files in webdataset's form: urls or paths with braces, wildcards, `::` between several."""

    def __init__(self, pattern: str) -> None:
        try:
            import webdataset
        except ImportError as error:
            raise TrainingError("--data_set wds needs webdataset: pip install webdataset") from error
        urls = webdataset.shardlists.expand_urls(pattern)
        self.urls = [f for u in urls for f in (sorted(glob.glob(u)) if glob.has_magic(u) else [u])]
        if not self.urls:
            raise TrainingError(f"{pattern}: there are no such shards")

    def open(self, seed: int, epoch: int, part: int, parts: int) -> Iterable[Raw]:
        try:
            yield from self._samples(seed, epoch, part, parts)
        except (OSError, EOFError, tarfile.TarError) as error:
            # webdataset adds the stream and the name of the shard to what tarfile says
            words = error.args if isinstance(error, tarfile.TarError) else (str(error),)
            said = ", ".join(w for w in words if isinstance(w, str))
            raise TrainingError(f"a shard cannot be read: {said}") from None

    def _samples(self, seed: int, epoch: int, part: int, parts: int) -> Iterator[Raw]:
        import webdataset

        draw = random.Random(f"{seed}/{epoch}")
        order = draw.sample(self.urls, len(self.urls))
        whole = len(order) >= parts  # else every part reads all shards and keeps its share of the samples
        options = {"shardshuffle": False, "nodesplitter": None, "workersplitter": None, "empty_check": False}
        rows = webdataset.WebDataset(order[part::parts] if whole else order, **options)
        shuffled = rows.shuffle(SHUFFLED, rng=random.Random(f"{seed}/{epoch}/{part if whole else ''}"))
        for row in shuffled if whole else itertools.islice(shuffled, part, None, parts):
            image = next((row[e[1:]] for e in EXTENSIONS if e[1:] in row), b"")
            label = row.get("cls", b"0")
            yield str(row["__key__"]), io.BytesIO(image), int(label) if label.strip().isdigit() else 0


class HubStream:
    """A Hugging Face dataset with `streaming=True`."""

    def __init__(self, config: TrainConfig, split: str) -> None:
        self.key, self.split = config.image_key, split
        self.rows = undecoded(open_hub(config, split, streaming=True), config)

    def open(self, seed: int, epoch: int, part: int, parts: int) -> Iterable[Raw]:
        rows = self.rows.shuffle(seed=hash((seed, epoch)) & 0x7FFFFFFF, buffer_size=SHUFFLED)
        whole = rows.num_shards >= parts
        rows = rows.shard(parts, part, contiguous=False) if whole else rows
        # by batches of one: plain iteration would share the shards among the workers once more
        singles = ({k: v[0] for k, v in batch.items()} for batch in rows.iter(batch_size=1))
        for i, row in enumerate(singles if whole else itertools.islice(singles, part, None, parts)):
            cell = row[self.key]
            yield cell.get("path") or f"{self.split}: sample {i}", hub_file(cell), 0  # nothing streamed has labels


class _Parts(IterableDataset[Batch]):
    """Batches of one process. Batch t of the run comes from part `t % workers`, whichever worker that is."""

    def __init__(
        self,
        source: Source,
        transform: Augment,
        steps: Steps,
        read: Callable[[Any], Any],
        workers: int,
        taken: dict[int, int],
    ) -> None:
        self.source, self.transform, self.steps, self.read = source, transform, steps, read
        self.workers, self.taken = workers, taken

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        s, first = self.steps, self.steps.per_epoch * self.steps.accumulate  # batches of an epoch
        begin = s.start.epoch * first + s.start.step * s.accumulate
        part = (begin + (info.id if info else 0)) % self.workers
        for epoch in range(s.start.epoch, s.epochs):
            mine = [t for t in range(max(begin, epoch * first), (epoch + 1) * first) if t % self.workers == part]
            taken = self.taken.get(part, 0) if epoch == s.start.epoch else 0
            samples = self._samples(epoch, part, taken)
            for t in mine:
                step, accumulated = divmod(t - epoch * first, s.accumulate)
                place = step * s.images + s.place(accumulated)
                found = []
                for i in range(s.batch):
                    name, image, label, failures, taken = next(samples)
                    with seeded(s.seed, epoch, place + i):
                        tensor, reason = self.transform(image)
                    found.append((tensor, label, failures, [(name, reason)] if reason else []))
                batch = collate(found)
                batch.taken = (part, taken)
                yield batch

    def _samples(self, epoch: int, part: int, skip: int) -> Iterator[tuple[str, Any, int, list[Failure], int]]:
        """Names and decoded samples without end (a part that runs out begins again), and how many were taken off the
        stream."""
        s, taken, failures = self.steps, 0, []
        parts, mine = s.among.size * self.workers, s.among.rank * self.workers + part
        while True:
            before = taken
            for name, file, label in self.source.open(s.seed, epoch, mine, parts):
                taken += 1
                if taken <= skip:
                    continue
                try:
                    image = self.read(file)
                except Exception as error:  # whatever a decoder says of a damaged file
                    failures.append((name, first_line(error)))
                    if len(failures) >= GIVE_UP:
                        raise TrainingError(
                            f"{GIVE_UP} images in a row cannot be read: {': '.join(failures[-1])}"
                        ) from None
                    continue
                yield name, image, label, failures, taken
                failures = []
            if taken == before:
                raise TrainingError(f"part {mine} of {parts} of the stream holds no samples")


def stream_batches(
    source: Source,
    transform: Transform | Augment,
    steps: Steps,
    channels: int,
    workers: int,
    pin: bool,
    taken: dict[int, int],
    value_range: Range = None,
) -> Iterator[Batch]:
    """All batches of this process, in order.

    Args:
        channels, value_range: of :func:`images.decode`.
        taken: samples that each part has given in the epoch where the run starts: :attr:`Batch.taken` of its last ones.
    """
    read = functools.partial(decode, channels=channels, value_range=value_range)
    parts = _Parts(source, careful(transform), steps, read, max(workers, 1), taken)
    loader = DataLoader(parts, batch_size=None, num_workers=workers, pin_memory=pin, worker_init_fn=leave_signals)
    return plain_errors(iter(loader))
