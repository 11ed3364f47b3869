"""What a run tells a person: what it is before it starts, what cannot work, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .run import Run
from .saving import Position

# Learning rates below these hardly move a network that starts from random weights, or from a checkpoint.
SMALL_FROM_RANDOM, SMALL_FROM_CHECKPOINT = 1e-4, 2e-5


def facts(run: Run) -> Iterator[str]:
    """Model, data, steps and learning rate, in one line."""
    args, s = run.args, run.steps
    number = sum(p.numel() for p in run.model.parameters())
    where = f"{s.among.size} x {s.among.device.type}" if s.among.size > 1 else str(s.among.device)
    yield (
        f"{run.task.name}: {args.model}, {number / 1e6:.1f} M parameters; {run.task.epoch_samples} images, "
        f"{s.per_epoch} steps of {s.images} an epoch, {s.epochs} epochs; lr {args.lr:.3g}; {where}"
    )


def warnings(run: Run) -> Iterator[str]:
    """What makes a run useless: it keeps nothing, or its settings cannot learn."""
    args, s = run.args, run.steps
    if run.folder is None:
        yield (
            "warning: no --output_dir: nothing is saved, neither checkpoints nor losses, and the run cannot be resumed"
        )
    elif not args.save_ckpt:
        yield "warning: --save_ckpt false: the log is kept, the weights are not, and the run cannot be resumed"
    yield from schedule_warnings(args, s.images, s.per_epoch, run.scaled_from)


def schedule_warnings(args: Any, images: int, per_epoch: int, scaled_from: float | None) -> Iterator[str]:
    """Of warm-up and learning rate.

    Args:
        images: of a step. per_epoch: steps of an epoch.
        scaled_from: the `--blr` that `args.lr` was computed from; None: `--lr` was given.
    """
    steps = args.epochs * per_epoch
    warmup = getattr(args, "warmup_steps", 0)
    given = f"--warmup_steps {warmup}" if warmup > 0 else f"--warmup_epochs {args.warmup_epochs:g}"
    warmup = warmup if warmup > 0 else args.warmup_epochs * per_epoch
    if warmup >= steps > 0:
        peak = args.lr * (steps - 1) / warmup
        short = (
            f"--warmup_steps {steps // 10}"
            if given.startswith("--warmup_steps")
            else (f"--warmup_epochs {args.epochs / 10:.2g}")
        )
        yield (
            f"warning: the warm-up ({given}) is as long as the run (--epochs {args.epochs}) or longer: the learning "
            f"rate rises to {peak:.2g} of {args.lr:.2g} and never falls; try {short}"
        )
    random = not getattr(args, "finetune", "")
    if scaled_from is not None and args.lr < (SMALL_FROM_RANDOM if random else SMALL_FROM_CHECKPOINT):
        yield (
            f"warning: the learning rate is {args.lr:.2g} (--blr {scaled_from:g} x {images} images a step / 256), too "
            f"small to learn much: --blr is meant for thousands of images a step. With {images}, give the rate itself, "
            f"such as --lr {'1e-3' if random else '1e-4'}"
        )


def nothing_to_do(run: Run) -> str | None:
    """Where the run is already past its last epoch: what to say of that."""
    args, start = run.args, run.steps.start
    if start < Position(args.epochs, 0):
        return None
    if run.resumed is None:
        return f"nothing to do: --start_epoch {args.start_epoch} is not before --epochs {args.epochs}"
    return (
        f"nothing to do: {run.resumed} stands at the end of epoch {start.epoch - 1}, the last of --epochs "
        f"{args.epochs}. More --epochs would continue it; another --output_dir starts a new run"
    )


def interrupted(run: Run) -> str:
    """What was written before the run was interrupted, and how it continues."""
    if run.unsaved:
        return f"interrupted; {run.unsaved}"
    if run.folder is None or not run.args.save_ckpt:
        return "interrupted; nothing was saved"
    again = "the same command resumes from there"
    if not run.args.auto_resume:
        again = f"--resume {run.saved or run.resumed} resumes from there"
    if run.saved is not None:
        return f"interrupted; wrote {run.saved}; {again}"
    if run.resumed is not None:
        return f"interrupted; no new checkpoint was written, the last is {run.resumed}; {again}"
    return "interrupted before the first checkpoint: the same command starts from the beginning"


def finished(run: Run, duration: str) -> str:
    """How long it took, and what it left behind."""
    wrote = f"; wrote {run.saved}" if run.saved is not None else ""
    plain = f"; {run.plain} images were not augmented (see the warning above)" if run.plain else ""
    return f"{run.task.name}: done in {duration}{wrote}{plain}"
