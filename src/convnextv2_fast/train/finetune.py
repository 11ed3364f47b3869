"""Fine-tuning and evaluation of a classifier: upstream's `main_finetune.py`, on timm's augmentation and losses."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
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
from .libraries import blamed, need
from .loop import train
from .parallel import Processes, processes
from .resume import find
from .run import AMP, Task
from .tables import Table

HEAD_STD = 2e-5  # upstream's, of the head after loading
TOP = 5  # answers of which one may be right, in `acc5`


def build(args: Any, source: start.Weights | None) -> tuple[convnextv2.ConvNeXtV2, LoadReport | None]:
    """The classifier that the arguments describe, with the weights of `source`: to be evaluated, all of them; to be
    trained, all but the head's.

    Raises:
        TrainingError: they do not fit.
    """
    torch.manual_seed(args.seed)
    model = getattr(convnextv2, args.model)(
        in_chans=args.in_chans,
        num_classes=args.nb_classes,
        drop_path_rate=args.drop_path,
        head_init_scale=args.head_init_scale,
    )
    if source is None:
        return model, None
    report = start.load(model, source[0], args, head="keep" if args.eval else "auto")
    if not args.eval:
        trunc_normal_(model.head.weight, std=HEAD_STD)
        zero_(model.head.bias)
    return model, report


def _optimizer(args: Any, model: convnextv2.ConvNeXtV2) -> torch.optim.Optimizer:
    if args.layer_decay == 1.0 and args.layer_decay_type == "single":
        return optim.create_optimizer(args, model)
    if args.layer_decay_type == "group" and model.depths != [3, 3, 27, 3]:
        raise TrainingError(f"--layer_decay_type group is made for depths of (3, 3, 27, 3), not {tuple(model.depths)}")
    layers = optim.LayerDecayValueAssigner.of(args.layer_decay, model.depths, args.layer_decay_type)
    return optim.create_optimizer(args, model, layers.get_layer_id, layers.get_scale)


class Objective:
    """timm's mixup and cutmix, and the loss that belongs to them."""

    def __init__(self, args: Any) -> None:
        timm_loss = need("timm.loss")
        self.mixup = None
        if args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax is not None:
            if args.batch_size % 2:
                raise TrainingError(f"--mixup and --cutmix pair images: --batch_size {args.batch_size} must be even")
            with blamed("--mixup, --cutmix or an option of theirs"):
                self.mixup = need("timm.data").Mixup(
                    mixup_alpha=args.mixup,
                    cutmix_alpha=args.cutmix,
                    cutmix_minmax=args.cutmix_minmax,
                    prob=args.mixup_prob,
                    switch_prob=args.mixup_switch_prob,
                    mode=args.mixup_mode,
                    label_smoothing=args.smoothing,
                    num_classes=args.nb_classes,
                )
            self.criterion = timm_loss.SoftTargetCrossEntropy()
        elif args.smoothing > 0:
            with blamed(f"--smoothing {args.smoothing}"):
                self.criterion = timm_loss.LabelSmoothingCrossEntropy(smoothing=args.smoothing)
        else:
            self.criterion = nn.CrossEntropyLoss()

    def __call__(self, model: nn.Module, batch: Batch, step: int, first: int) -> Tensor:
        images, labels = batch.images, batch.labels
        if self.mixup is not None:
            images, labels = self.mixup(images, labels)
        return self.criterion(model(images).float(), labels)


@torch.no_grad()
def evaluate(
    args: Any, among: Processes, batches: Any, told: set[str], model: nn.Module, say: Callable[[str], None]
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
        moved = batch.to(device)
        with torch.autocast(device.type, AMP[args.amp_dtype]) if args.use_amp else contextlib.nullcontext():
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
    if args.nb_classes > TOP:  # else it is always 100
        found["acc5"] = 100 * five / count
    return found | ({"unreadable": len(unreadable)} if unreadable else {})


def run(args: Any) -> dict[str, Any]:
    """`python -m convnextv2_fast finetune`. Returns the last epoch's record, or the metrics of `--eval`.

    Raises:
        TrainingError: data, arguments or a checkpoint that cannot be used.
    """
    if args.eval and not (args.resume or args.finetune):
        raise TrainingError("--eval: say which weights: --resume (with their head) or --finetune")
    with processes(args.device) as among:
        resumed = None if args.eval else find(args, among)
        if resumed and args.finetune and among.first:
            print(
                f"--finetune {args.finetune} is not used: the run goes on from {resumed[0]}. "
                "Another --output_dir starts a new run from it",
                file=sys.stderr,
            )
        weights = start.adopt(args, resumed)
        images = None if args.eval else labelled.table(args, True)
        held_out = labelled.table(args, False) if args.eval or not args.disable_eval else None
        classes = labelled.classes(args, (images, held_out))
        model, report = build(args, weights)
        if report is not None and among.first and not args.resume:
            print(report, flush=True)
        if args.grad_checkpointing:
            model.set_grad_checkpointing()
        evaluation = None
        if held_out is not None:
            # Sharded processes must all take part in every batch: each then evaluates everything.
            shared = args.dist_eval and args.parallel != "fsdp"
            share = among if shared else Processes(0, 1, among.device)
            batches = data.evaluation_batches(
                held_out, evaluation_transform(args), args.batch_size, share, args.num_workers, args.pin_mem
            )
            evaluation = functools.partial(evaluate, args, share, batches, set())
        if images is None:
            if weights is not None and classes and weights[1].get("classes"):
                labelled.check_names(weights[0].what, weights[1]["classes"], args.data_path, classes)
            return _evaluate_only(among, model, evaluation)
        change = training_transform(args)
        task = Task(
            name="finetune",
            model=model,
            make_optimizer=functools.partial(_optimizer, args),
            loss=Objective(args),
            batches=lambda steps, taken: _batches(images, change, steps, args),
            epoch_samples=len(images),
            evaluate=evaluation,
            classes=classes,
        )
        return train(args, task, among, resumed)


def _batches(images: Table, change: Augment, steps: Steps, args: Any) -> Iterator[Batch]:
    return data.training_batches(images, change, steps, args.num_workers, args.pin_mem)


def _evaluate_only(among: Processes, model: nn.Module, evaluation: Any) -> dict[str, Any]:
    def say(text: str) -> None:
        if among.first:
            print(text, file=sys.stderr, flush=True)

    found: dict[str, Any] = evaluation(model.to(among.device), say)
    words = [f"loss {found['loss']:.4f}", f"top-1 {found['acc1']:.2f} %"]
    words += [f"top-5 {found['acc5']:.2f} %"] if "acc5" in found else []
    if "unreadable" in found:
        words.append(f"({found['unreadable']} unreadable {'image' if found['unreadable'] == 1 else 'images'} left out)")
    if among.first:
        print("  ".join(words), flush=True)
    return found
