"""What a run tells a person: what it is before it starts, what cannot work, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .config import TrainConfig
from .finetune_config import FinetuneConfig
from .run import Run
from .saving import Position

# Learning rates below these hardly move a network that starts from random weights, or from a checkpoint.
SMALL_FROM_RANDOM, SMALL_FROM_CHECKPOINT = 1e-4, 2e-5
NOTHING = 1e-9  # steps of this rate are lost in the rounding of float32 weights


def facts(run: Run) -> Iterator[str]:
    """Model, data, steps and learning rate, in one line."""
    config, s = run.config, run.steps
    number = sum(p.numel() for p in run.model.parameters())
    where = f"{s.among.size} x {s.among.device.type}" if s.among.size > 1 else str(s.among.device)
    rest = run.task.epoch_samples - s.per_epoch * s.images
    left = f"; {counted(rest, 'image')} left out of each epoch, which fill no step" if rest else ""
    yield (
        f"{run.task.name}: {run.task.network}, {number / 1e6:.1f} M parameters; "
        f"{counted(run.task.epoch_samples, 'image')}, "
        f"{counted(s.per_epoch, 'step')} of {s.images} an epoch, {counted(s.epochs, 'epoch')}{left}; "
        f"lr {config.learning_rate(s.images):.3g}; {where}"
    )


def counted(number: int, what: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def warnings(run: Run) -> Iterator[str]:
    """What makes a run useless: it keeps nothing, or its settings cannot learn."""
    config, s = run.config, run.steps
    if run.folder is None:
        yield (
            "warning: no --output_dir: nothing is saved, neither checkpoints nor losses, and the run cannot be resumed"
        )
    elif not config.save_ckpt:
        yield "warning: --save_ckpt false: the log is kept, the weights are not, and the run cannot be resumed"
    if isinstance(config, FinetuneConfig) and config.nb_classes == 1:
        named = f" ({run.task.classes[0]})" if run.task.classes else ""
        yield f"warning: there is only one class{named}: every answer is right, so nothing can be learned"
    yield from schedule_warnings(config, s.images, s.per_epoch, run.scaled_from)


def schedule_warnings(config: TrainConfig, images: int, per_epoch: int, scaled_from: float | None) -> Iterator[str]:
    """Of warm-up and learning rate.

    Args:
        images: of a step. per_epoch: steps of an epoch.
        scaled_from: the `--blr` that the learning rate was computed from; None: `--lr` was given.
    """
    tuned = config if isinstance(config, FinetuneConfig) else None
    steps, rate = config.epochs * per_epoch, config.learning_rate(images)
    given = f"--warmup_epochs {config.warmup_epochs:g}"
    if tuned is not None and tuned.warmup_steps > 0:
        given = f"--warmup_steps {tuned.warmup_steps}"
    warmup = config.warmup(per_epoch) * per_epoch
    if warmup >= steps > 0:
        peak = rate * (steps - 1) / warmup
        short = f"--warmup_epochs {config.epochs / 10:.2g}"
        if given.startswith("--warmup_steps"):  # of 0, the warm-up would be that of --warmup_epochs
            short = f"--warmup_steps {max(1, steps // 10)}" if steps > 1 else "--warmup_epochs 0 without --warmup_steps"
        yield (
            f"warning: the warm-up ({given}) is as long as the run (--epochs {config.epochs}) or longer: the learning "
            f"rate rises to {peak:.2g} of {rate:.2g} and never falls; try {short}"
        )
    random, lowest = tuned is None or not tuned.finetune, config.min_lr
    if scaled_from is None and rate < NOTHING:
        yield (f"warning: the learning rate is {rate:.2g}: nothing is learned. Try --lr {'1e-3' if random else '1e-4'}")
    elif lowest > rate:
        yield (
            f"warning: --min_lr {lowest:g} is above the learning rate of {rate:.2g}, which then rises to the end "
            "instead of falling; try --min_lr 0"
        )
    if scaled_from is not None and rate < (SMALL_FROM_RANDOM if random else SMALL_FROM_CHECKPOINT):
        yield (
            f"warning: the learning rate is {rate:.2g} (--blr {scaled_from:g} x {images} images a step / 256), too "
            f"small to learn much: --blr is meant for thousands of images a step. With {images}, give the rate itself, "
            f"such as --lr {'1e-3' if random else '1e-4'}"
        )


def nothing_to_do(run: Run) -> str | None:
    """Where the run is already past its last epoch: what to say of that."""
    config, start = run.config, run.steps.start
    if start < Position(config.epochs, 0):
        return None
    if run.resumed is None:
        return f"nothing to do: --start_epoch {config.start_epoch} is not before --epochs {config.epochs}"
    return (
        f"nothing to do: {run.resumed} stands at the end of epoch {start.epoch - 1}, the last of --epochs "
        f"{config.epochs}. More --epochs would continue it; another --output_dir starts a new run"
    )


def interrupted(run: Run) -> str:
    """What was written before the run was interrupted, and how it continues."""
    if run.unsaved:
        return f"interrupted; {run.unsaved}"
    if run.folder is None or not run.config.save_ckpt:
        return "interrupted; nothing was saved"
    again = "the same command resumes from there"
    if not run.config.auto_resume:
        again = f"--resume {run.saved or run.resumed} resumes from there"
    if run.saved is not None:
        return f"interrupted; wrote {run.saved}; {again}"
    if run.resumed is not None:
        return f"interrupted; no new checkpoint was written, the last is {run.resumed}; {again}"
    return "interrupted before the first checkpoint: the same command starts from the beginning"


def finished(run: Run, duration: str) -> str:
    """How long it took, and what it left behind."""
    wrote = f"; wrote {run.saved}" if run.saved is not None else ""
    best = run.folder.path / "checkpoint-best.pth" if run.folder is not None else None
    if best is not None and "best" in run.best and best.exists():
        wrote += f"; the best is {best}, with {run.best['best']:.2f} % right"
    plain = f"; {run.plain} images were not augmented (see the warning above)" if run.plain else ""
    return f"{run.task.name}: done in {duration}{wrote}{plain}"


def diverged(run: Run, what: str) -> str:
    """Of a loss that is no number: what is left, and what may help."""
    last = run.saved or run.resumed
    rate = "--blr" if run.scaled_from is not None else "--lr"
    help = [f"a lower {rate}", "--clip_grad 1", *(["--init std02"] if run.task.name == "pretrain" else [])]
    where = f"; the last checkpoint, {last}, is from before" if last is not None else ""
    float16 = "; float16 overflows sooner than --amp_dtype bfloat16" if run.config.amp == torch.float16 else ""
    return f"{what}{where}. What may help: {' or '.join(help)}{float16}"
