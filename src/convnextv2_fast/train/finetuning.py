"""Fine-tuning and evaluation of a classifier: upstream's `main_finetune.py`, on timm's augmentation and losses."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints import LoadReport
from ..errors import TrainingError
from ..models import convnextv2
from ..models.utils import trunc_normal_, zero_
from . import data, labelled, optim, start
from .augment import evaluation_transform, training_transform
from .data import Augment, Batch, Steps
from .finetune_config import FinetuneConfig
from .libraries import blamed, need
from .loop import train
from .parallel import Processes, processes
from .resume import find
from .run import Evaluate, Task
from .tables import Table, some

HEAD_STD = 2e-5  # upstream's, of the head after loading
TOP = 5  # answers of which one may be right, in `acc5`


def build(config: FinetuneConfig, source: start.Weights | None) -> tuple[convnextv2.ConvNeXtV2, LoadReport | None]:
    """The classifier that the options describe, with the weights of `source`: to be evaluated, all of them; to be
    trained, all but the head's.

    Raises:
        TrainingError: they do not fit.
    """
    torch.manual_seed(config.seed)
    model = getattr(convnextv2, config.network)(
        in_chans=config.channels,
        num_classes=config.nb_classes,
        drop_path_rate=config.drop_path,
        head_init_scale=config.head_init_scale,
    )
    if source is None:
        return model, None
    report = start.load(model, source[0], "keep" if config.eval else "auto", config)
    if not config.eval:
        trunc_normal_(model.head.weight, std=HEAD_STD)
        zero_(model.head.bias)
    return model, report


def _optimizer(config: FinetuneConfig, model: convnextv2.ConvNeXtV2) -> torch.optim.Optimizer:
    if config.layer_decay == 1.0 and config.layer_decay_type == "single":
        return optim.create_optimizer(config, model)
    if config.layer_decay_type == "group" and model.depths != [3, 3, 27, 3]:
        raise TrainingError(f"--layer_decay_type group is made for depths of (3, 3, 27, 3), not {tuple(model.depths)}")
    layers = optim.LayerDecayValueAssigner.of(config.layer_decay, model.depths, config.layer_decay_type)
    return optim.create_optimizer(config, model, layers.get_layer_id, layers.get_scale)


class Objective:
    """timm's mixup and cutmix, and the loss that belongs to them."""

    def __init__(self, config: FinetuneConfig) -> None:
        timm_loss = need("timm.loss")
        self.mixup = None
        if config.mixup > 0 or config.cutmix > 0 or config.cutmix_minmax is not None:
            if config.batch_size % 2:
                raise TrainingError(f"--mixup and --cutmix pair images: --batch_size {config.batch_size} must be even")
            with blamed("--mixup, --cutmix or an option of theirs"):
                self.mixup = need("timm.data").Mixup(
                    mixup_alpha=config.mixup,
                    cutmix_alpha=config.cutmix,
                    cutmix_minmax=config.cutmix_minmax,
                    prob=config.mixup_prob,
                    switch_prob=config.mixup_switch_prob,
                    mode=config.mixup_mode,
                    label_smoothing=config.smoothing,
                    num_classes=config.nb_classes,
                )
            self.criterion = timm_loss.SoftTargetCrossEntropy()
        elif config.smoothing > 0:
            with blamed(f"--smoothing {config.smoothing}"):
                self.criterion = timm_loss.LabelSmoothingCrossEntropy(smoothing=config.smoothing)
        else:
            self.criterion = nn.CrossEntropyLoss()

    def inputs(self, batch: Batch, step: int, first: int) -> tuple[Tensor, Tensor]:
        """Mixed images, and what they are of. timm draws on the host how they are mixed."""
        images, labels = batch.images, batch.labels
        return self.mixup(images, labels) if self.mixup is not None else (images, labels)

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return self.criterion(model(images).float(), labels)


@torch.no_grad()
def evaluate(
    config: FinetuneConfig,
    among: Processes,
    batches: Iterable[Batch],
    told: set[str],
    model: nn.Module,
    say: Callable[[str], None],
) -> dict[str, float]:
    """Cross entropy and accuracies in percent, over every image that can be read exactly once. `acc5` is there where
    five of the classes can be wrong, and `unreadable`, the number of images that were left out, where it is not 0.

    Args:
        told: the unreadable images that `say` has heard of; new ones are added.
    Raises:
        TrainingError: none of the images can be read.
    """
    model.eval()
    device = next(model.parameters()).device
    sums = torch.zeros(4, dtype=torch.float64)
    unreadable: dict[str, str] = {}
    for batch in batches:
        unreadable.update(batch.failures)
        if not len(batch.images):
            continue
        if config.nb_classes is not None:
            labelled.check_labels(batch.labels, config.nb_classes)
        moved = batch.to(device)
        with torch.autocast(device.type, config.amp) if config.amp else contextlib.nullcontext():
            logits = model(moved.images).float()
        best = logits.topk(min(TOP, logits.shape[1]), dim=1).indices == moved.labels.unsqueeze(1)
        entropy = F.cross_entropy(logits, moved.labels, reduction="sum")
        sums += torch.tensor([entropy, best[:, 0].sum(), best.any(dim=1).sum(), len(logits)], dtype=torch.float64)
    loss, first, five, count = among.total(sums.tolist())
    unreadable = {name: reason for found in among.gather(unreadable) for name, reason in found.items()}
    for name in sorted(unreadable.keys() - told):
        told.add(name)
        say(f"warning: unreadable validation image left out, {len(told)} so far: {name}: {unreadable[name]}")
    if not count:
        raise TrainingError(f"none of the {len(unreadable)} validation images can be read")
    found = {"loss": loss / count, "acc1": 100 * first / count}
    if (config.nb_classes or 0) > TOP:  # else it is always 100
        found["acc5"] = 100 * five / count
    return found | ({"unreadable": len(unreadable)} if unreadable else {})


def run(config: FinetuneConfig) -> dict[str, Any]:
    """See :func:`convnextv2_fast.train.finetune`."""
    if config.eval and not (config.resume or config.finetune):
        raise TrainingError("--eval: say which weights: --resume (with their head) or --finetune")
    with processes(config.device, config.cuda_graph) as among:
        resumed = None if config.eval else find(config, among)
        if resumed and config.finetune and among.first:
            print(
                f"--finetune {config.finetune} is not used: the run continues from {resumed[0]}. "
                "Another --output_dir starts a new run from it",
                file=sys.stderr,
            )
        config, weights = start.adopt(config, resumed)
        images = None if config.eval else labelled.table(config, True)
        names = images.classes if images is not None else _names(weights)
        held_out = labelled.table(config, False, names) if config.eval or not config.disable_eval else None
        classes, number = labelled.classes(config, (images, held_out))
        config = replace(config, nb_classes=number)
        missing = labelled.absent(held_out) if held_out is not None else []
        if missing and among.first:
            print(f"the validation images lack {len(missing)} of {number} classes: {some(missing)}", file=sys.stderr)
        model, report = build(config, weights)
        if report is not None and among.first and not config.resume:
            print(report, flush=True)
        if config.grad_checkpointing:
            model.set_grad_checkpointing()
        evaluation: Evaluate | None = None
        if held_out is not None:
            # Sharded processes must all take part in every batch: each then evaluates everything.
            shared = config.dist_eval and config.parallel != "fsdp"
            share = among if shared else Processes(0, 1, among.device)
            change = evaluation_transform(config.preprocessing, config.channels)
            batches = data.evaluation_batches(
                held_out, change, config.batch_size, share, config.num_workers, config.pinned
            )
            evaluation = functools.partial(evaluate, config, share, batches, set())
        if images is None:
            assert evaluation is not None  # --eval has its images
            return _evaluate_only(among, model, evaluation)
        rate = config.learning_rate(config.images(among.size))
        objective = Objective(config)
        task = Task(
            name="finetune",
            network=config.network,
            model=model,
            make_optimizer=functools.partial(_optimizer, replace(config, lr=rate)),
            inputs=objective.inputs,
            loss=objective.loss,
            batches=functools.partial(_batches, images, training_transform(config), config),
            epoch_samples=len(images),
            evaluate=evaluation,
            classes=classes,
        )
        return train(config, task, among, resumed)


def _batches(
    images: Table, change: Augment, config: FinetuneConfig, steps: Steps, taken: dict[int, int]
) -> Iterator[Batch]:
    for batch in data.training_batches(images, change, steps, config.num_workers, config.pinned):
        labelled.check_labels(batch.labels, len(images.classes) or config.nb_classes or 0)
        yield batch


def _names(weights: start.Weights | None) -> list[str] | None:
    """Of the classes, by label, that a checkpoint was trained for; None where it does not tell."""
    held = weights[1].get("classes") if weights is not None else None
    return [str(name) for name in held] if isinstance(held, list) and held else None


def _evaluate_only(among: Processes, model: nn.Module, evaluation: Evaluate) -> dict[str, float]:
    def say(text: str) -> None:
        if among.first:
            print(text, file=sys.stderr, flush=True)

    found = evaluation(model.to(among.device), say)
    words = [f"loss {found['loss']:.4f}", f"top-1 {found['acc1']:.2f} %"]
    words += [f"top-5 {found['acc5']:.2f} %"] if "acc5" in found else []
    if "unreadable" in found:
        words.append(f"({found['unreadable']} unreadable {'image' if found['unreadable'] == 1 else 'images'} left out)")
    if among.first:
        print("  ".join(words), flush=True)
    return found
