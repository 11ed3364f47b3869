"""What a command trains, and the moving parts of training it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..graphs import TrainingStep
from . import saving
from .config import TrainConfig
from .data import Batch, Steps
from .log import Log
from .parallel import Processes

Evaluate = Callable[[nn.Module, Callable[[str], None]], dict[str, float]]
MakeBatches = Callable[[Steps, dict[int, int]], Iterator[Batch]]


@dataclass
class Task:
    """What a command trains."""

    name: str
    network: str  # the model's name
    model: nn.Module  # on the CPU
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    # of a batch, the step of the run, and the place of the batch's first image in the step: what the loss is given,
    # with everything in it that is drawn on the host
    inputs: Callable[[Batch, int, int], Sequence[Any]]
    loss: Callable[..., Tensor]  # of the model as it is called, and of these inputs
    batches: MakeBatches  # of steps, and of what earlier ones have taken from each part of a stream
    epoch_samples: int
    # metrics of a model; what it has to say of the images goes to the second argument
    evaluate: Evaluate | None = None
    classes: list[str] = field(default_factory=list)  # names by label; empty: they have none


@dataclass
class Run:
    """A run's moving parts."""

    config: TrainConfig  # its learning rate found
    task: Task
    among: Processes
    steps: Steps
    model: nn.Module  # as it is called: wrapped
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: Any  # timm's ModelEmaV3, or None
    folder: saving.Folder | None
    training: TrainingStep = field(init=False)  # from when the first step is about to be done
    log: Log = field(init=False)  # likewise
    unreadable: set[str] = field(default_factory=set)
    plain: int = 0  # images that could not be augmented, of this process
    taken: dict[int, int] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    carried: tuple[float, int] = (0.0, 0)  # sum and number of the losses of an epoch that was cut off
    saved: Path | None = None  # the last checkpoint that was written
    unsaved: str | None = None  # why the last checkpoint could not be written
    scaled_from: float | None = None  # the --blr that --lr was computed from, where it was
    resumed: Path | None = None  # the checkpoint that the run was taken up from
