"""Fine-tuning and evaluation of a classifier: upstream's `main_finetune.py`, on timm's augmentation and losses."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints import CheckpointError, LoadReport, load_checkpoint
from ..checkpoints.files import first_line
from ..models import convnextv2
from ..models.utils import trunc_normal_
from . import TrainingError, data, optim, saving
from .data import Batch, Steps, Transform
from .libraries import need, torchvision_transforms
from .loop import train
from .parallel import Processes, processes
from .pretrain import IMAGENET
from .run import AMP, Task

INCEPTION = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
HEAD_STD = 2e-5  # upstream's, of the head after loading


def mean_and_std(args: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return IMAGENET if args.imagenet_default_mean_and_std else INCEPTION


def training_transform(args: Any) -> Transform:
    """timm's, as upstream sets it up."""
    mean, std = mean_and_std(args)
    return need("timm.data").create_transform(
        input_size=args.input_size,
        is_training=True,
        color_jitter=args.color_jitter or 0.0,
        auto_augment=args.aa or None,
        interpolation=args.train_interpolation,
        re_prob=args.reprob,
        re_mode=args.remode,
        re_count=args.recount,
        mean=mean,
        std=std,
    )


def evaluation_transform(args: Any) -> Transform:
    """Upstream's: from 384 px on the whole image is resized, below it a centre crop of `crop_pct` (default 224/256)."""
    t = torchvision_transforms()
    bicubic = t.InterpolationMode.BICUBIC
    if args.input_size >= 384 and args.crop_pct is None:
        steps = [t.Resize((args.input_size, args.input_size), interpolation=bicubic)]
    else:
        size = int(args.input_size / (args.crop_pct or 224 / 256))
        steps = [t.Resize(size, interpolation=bicubic), t.CenterCrop(args.input_size)]
    return t.Compose([*steps, t.ToTensor(), t.Normalize(*mean_and_std(args))])


def table(args: Any, train: bool) -> data.Table:
    """The labelled images of `--data_set`.

    Raises:
        TrainingError: not there, or another number of classes than `--nb_classes`.
    """
    if args.data_set == "hf":
        found: data.Table = data.HubTable(args, args.split if train else args.eval_split)
    elif args.data_set == "CIFAR":
        found = Cifar(Path(args.data_path), train)
    elif args.data_set == "IMNET":
        found = data.Folder(Path(args.data_path) / ("train" if train else "val"), labelled=True)
    else:  # image_folder
        if not train and not args.eval_data_path:
            raise TrainingError("--data_set image_folder: say where the validation images are: --eval_data_path")
        found = data.Folder(Path(args.data_path if train else args.eval_data_path), labelled=True)
    classes = len(found.classes)
    if classes and classes != args.nb_classes:
        raise TrainingError(f"{args.data_path}: has {classes} classes, --nb_classes says {args.nb_classes}")
    return found


class Cifar:
    """CIFAR-100, through torchvision; downloaded if it is not there."""

    def __init__(self, root: Path, train: bool) -> None:
        try:
            self.rows = need("torchvision.datasets").CIFAR100(str(root), train=train, download=True)
        except (OSError, RuntimeError) as error:
            raise TrainingError(f"{root}: CIFAR-100 is not there: {first_line(error)}") from error
        self.classes = self.rows.classes

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return f"CIFAR-100[{index}]"

    def read(self, index: int) -> tuple[Any, int]:
        return self.rows[index]


def build(args: Any) -> tuple[nn.Module, LoadReport | None]:
    """The classifier, from `--finetune` where it is given.

    Raises:
        TrainingError: the checkpoint cannot be loaded completely.
    """
    torch.manual_seed(args.seed)
    model = getattr(convnextv2, args.model)(
        num_classes=args.nb_classes, drop_path_rate=args.drop_path, head_init_scale=args.head_init_scale
    )
    if not args.finetune:
        return model, None
    source: Any = args.finetune
    if args.model_key != "model|module":  # upstream's default: whatever holds the weights
        held = saving.read(Path(args.finetune))
        keys = [key for key in args.model_key.split("|") if key in held]
        if not keys:
            raise TrainingError(f"{args.finetune}: has none of --model_key {args.model_key}; it has {', '.join(held)}")
        source = held[keys[0]]
    try:
        report = load_checkpoint(model, source)
    except CheckpointError as error:
        raise TrainingError(str(error)) from error
    if not args.eval:
        trunc_normal_(model.head.weight, std=HEAD_STD)
        nn.init.zeros_(model.head.bias)
    return model, report


def _optimizer(args: Any, model: nn.Module) -> torch.optim.Optimizer:
    if args.layer_decay == 1.0 and args.layer_decay_type == "single":
        return optim.create_optimizer(args, model)
    if args.layer_decay_type == "group" and model.depths != [3, 3, 27, 3]:
        raise TrainingError(f"--layer_decay_type group is made for depths of (3, 3, 27, 3), not {tuple(model.depths)}")
    of = optim.LayerDecayValueAssigner.of(args.layer_decay, model.depths, args.layer_decay_type)
    return optim.create_optimizer(args, model, of.get_layer_id, of.get_scale)


class Objective:
    """timm's mixup and cutmix, and the loss that belongs to them."""

    def __init__(self, args: Any) -> None:
        timm_loss = need("timm.loss")
        self.mixup = None
        if args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax is not None:
            if args.batch_size % 2:
                raise TrainingError(f"--mixup and --cutmix pair images: --batch_size {args.batch_size} must be even")
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
            self.criterion = timm_loss.LabelSmoothingCrossEntropy(smoothing=args.smoothing)
        else:
            self.criterion = nn.CrossEntropyLoss()

    def __call__(self, model: nn.Module, batch: Batch, step: int, first: int) -> Tensor:
        images, labels = batch.images, batch.labels
        if self.mixup is not None:
            images, labels = self.mixup(images, labels)
        return self.criterion(model(images).float(), labels)


@torch.no_grad()
def evaluate(args: Any, among: Processes, batches: Any, model: nn.Module) -> dict[str, float]:
    """Cross entropy and accuracies in percent, over every image exactly once."""
    model.eval()
    device = next(model.parameters()).device
    sums = torch.zeros(4, dtype=torch.float64)
    for batch in batches:
        moved = batch.to(device)
        with torch.autocast(device.type, AMP[args.amp_dtype]) if args.use_amp else contextlib.nullcontext():
            logits = model(moved.images).float()
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == moved.labels.unsqueeze(1)
        loss = F.cross_entropy(logits, moved.labels, reduction="sum")
        sums += torch.tensor([loss, best[:, 0].sum(), best.any(dim=1).sum(), len(logits)], dtype=torch.float64)
    loss, first, five, count = among.total(sums.tolist())
    return {"loss": loss / count, "acc1": 100 * first / count, "acc5": 100 * five / count}


def run(args: Any) -> dict[str, Any]:
    """`python -m convnextv2_fast finetune`. Returns the last epoch's record, or the metrics of `--eval`.

    Raises:
        TrainingError: data, arguments or a checkpoint that cannot be used.
    """
    with processes(args.device) as among:
        model, report = build(args)
        if report is not None and among.first:
            print(report, flush=True)
        if args.grad_checkpointing:
            model.set_grad_checkpointing()
        evaluation = None
        if args.eval or not args.disable_eval:
            # Sharded processes must all take part in every batch: each then evaluates everything.
            shared = args.dist_eval and args.parallel != "fsdp"
            share = among if shared else Processes(0, 1, among.device)
            batches = data.evaluation_batches(
                table(args, False), evaluation_transform(args), args.batch_size, share, args.num_workers, args.pin_mem
            )
            evaluation = functools.partial(evaluate, args, share, batches)
        if args.eval:
            return _evaluate_only(args, among, model, evaluation)
        images, change = table(args, True), training_transform(args)
        task = Task(
            name="finetune",
            model=model,
            make_optimizer=functools.partial(_optimizer, args),
            loss=Objective(args),
            batches=lambda steps, taken: _batches(images, change, steps, args),
            epoch_samples=len(images),
            evaluate=evaluation,
        )
        return train(args, task, among)


def _batches(images: data.Table, change: Transform, steps: Steps, args: Any) -> Iterator[Batch]:
    return data.training_batches(images, change, steps, args.num_workers, args.pin_mem)


def _evaluate_only(args: Any, among: Processes, model: nn.Module, evaluation: Any) -> dict[str, Any]:
    if args.resume:
        try:
            load_checkpoint(model, args.resume, head="keep")
        except CheckpointError as error:
            raise TrainingError(str(error)) from error
    elif not args.finetune:
        raise TrainingError("--eval: say which weights: --resume (with their head) or --finetune")
    found = evaluation(model.to(among.device))
    if among.first:
        print(f"loss {found['loss']:.4f}  top-1 {found['acc1']:.2f} %  top-5 {found['acc5']:.2f} %", flush=True)
    return found
