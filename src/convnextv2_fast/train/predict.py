"""What a classifier says of images: the checkpoint tells its size, its preprocessing and the names of its classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.contents import describe
from ..checkpoints.files import first_line
from ..errors import CheckpointError, TrainingError
from ..models.convnextv2 import ConvNeXtV2
from . import start
from .augment import evaluation_transform
from .bands import Range
from .data import Transform
from .images import decode, read_as, unreadable
from .libraries import need
from .tables import expand

BATCH = 16


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image, best first, with their probabilities."""

    file: Path
    top: list[tuple[str, float]]


@dataclass(frozen=True)
class Classifier:
    model: nn.Module
    transform: Transform
    channels: int  # of the images to decode
    value_range: Range  # of images of more than 8 bits
    names: list[str]  # by label


def classifier(
    checkpoint: Path, use_ema: bool, size: int | None, names: Path | None, value_range: Range = None
) -> Classifier:
    """The model of a checkpoint with its head, ready to be called.

    Args:
        use_ema: take the moving average of the weights.
        size: pixels a side; None: those of the training, 224 where the checkpoint does not tell.
        names: a file with the name of a class a line; None: from the checkpoint, else "class 0", "class 1", ...
        value_range: what is black and white in images of more than 8 bits; None: as in the training.
    Raises:
        TrainingError: it holds no classifier, or another number of classes than names.
    """
    source, content = start.weights(checkpoint, use_ema=True if use_ema else "auto")
    try:
        held = describe(source)
    except CheckpointError as error:
        raise TrainingError(str(error)) from error
    if held.classes is None:
        raise TrainingError(
            f"{checkpoint}: holds {held}, so it cannot classify; fine-tune it first: finetune --finetune {checkpoint}"
        )
    channels = held.in_chans or 3
    model = ConvNeXtV2(in_chans=channels, num_classes=held.classes, depths=held.depths, dims=held.dims)
    start.load(model, source, head="keep")
    images = start.preprocessing(content)
    found = _names(content, names, held.classes)
    transform = evaluation_transform(replace(images, input_size=size or images.input_size), channels)
    return Classifier(model.eval(), transform, read_as(channels), value_range or images.value_range, found)


def _names(content: Mapping[str, Any], file: Path | None, number: int) -> list[str]:
    found = content.get("classes")
    if file is not None:
        try:
            found = file.read_text(encoding="utf-8").rstrip().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise TrainingError(f"{file}: cannot read it: {first_line(error)}") from error
    if not isinstance(found, list):
        return [f"class {i}" for i in range(number)]
    if len(found) != number:
        raise TrainingError(f"{file or 'the checkpoint'}: names {len(found)} classes, the head has {number}")
    return [str(name) for name in found]


def predict(
    found: Classifier, images: Sequence[Path], top: int, device: torch.device, warn: Callable[[str], None]
) -> Iterator[Prediction]:
    """The predictions for files, and for all images in folders.

    Args:
        warn: is told of images that cannot be read.
    Raises:
        TrainingError: a folder without images; weights that give no numbers.
    """
    need("PIL")
    model = found.model.to(device)
    waiting: list[tuple[Path, Tensor]] = []
    files = expand(images)
    for i, file in enumerate(files):
        try:
            waiting.append((file, found.transform(decode(file, found.channels, found.value_range))))
        except Exception as error:  # whatever a decoder says of a damaged file
            warn(unreadable(file, error))
        if waiting and (len(waiting) == BATCH or i + 1 == len(files)):
            with torch.inference_mode():
                logits = model(torch.stack([x for _, x in waiting]).to(device)).float()
            probabilities = logits.softmax(dim=1)
            if not probabilities.isfinite().all():
                raise TrainingError(
                    f"{waiting[0][0]}: the model's output is not a number: the checkpoint holds weights that are NaN "
                    "or infinite, or too large; take one from before the training diverged"
                )
            best = probabilities.topk(min(top, logits.shape[1]), dim=1)
            for (path, _), values, labels in zip(waiting, best.values.tolist(), best.indices.tolist(), strict=True):
                yield Prediction(path, [(found.names[k], p) for k, p in zip(labels, values, strict=True)])
            waiting = []
