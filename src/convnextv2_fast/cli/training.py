"""Arguments that `pretrain` and `finetune` share: upstream's names and defaults, and what upstream lacks."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any

from .arguments import CommandError, count, device, path_text, positive

MOST_WORKERS = 10  # upstream's number of loader processes

REFUSED = {
    "dist_on_itp": "is for a cluster of Microsoft's; start the processes with torchrun",
    "dist_url": "is set by torchrun (MASTER_ADDR and MASTER_PORT)",
    "world_size": "is set by torchrun: --nproc_per_node times --nnodes",
    "local_rank": "is set by torchrun (LOCAL_RANK)",
}


def boolean(text: str) -> bool:
    """argparse type: upstream's `true` and `false`."""
    values = {"true": True, "yes": True, "t": True, "y": True, "1": True}
    values |= {"false": False, "no": False, "f": False, "n": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return values[text.lower()]


def share(text: str) -> float:
    """argparse type: a number in [0, 1]."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} lies outside 0 to 1")
    return value


def below_one(text: str) -> float:
    """argparse type: a number in [0, 1)."""
    if share(text) == 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not below 1")
    return float(text)


def amount(text: str) -> float:
    """argparse type: a number from 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number from 0")
    return value


def flag(add: Callable[..., Any], name: str, default: bool | None, help: str, otherwise: str = "") -> None:
    """`--name`, `--name true` or `--name false`; `otherwise` says what a default of None stands for."""
    text = f"{help} (default: {otherwise or str(default).lower()})"
    add(name, type=boolean, nargs="?", const=True, default=default, metavar="true|false", help=text)


def workers() -> int:
    """Loader processes of each training process: upstream's 10, or fewer where the cores are not enough."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # set by torchrun: training processes on this machine
    return max(1, min(MOST_WORKERS, cores // here))


def models(names: Sequence[str]) -> Callable[[str], str]:
    """argparse type: one of these, with or without `convnextv2_`."""

    def find(text: str) -> str:
        full = text if text in names else f"convnextv2_{text}"
        if full not in names:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(names)}")
        return full

    return find


def add_run(parser: argparse.ArgumentParser, *, epochs: int, warmup: int, blr: float, min_lr: float) -> None:
    """Batches, schedule, precision, processes, checkpoints, log."""
    group = parser.add_argument_group("steps")
    add = group.add_argument
    add("--batch_size", type=positive, default=64, metavar="N", help="images a process and backward (default: 64)")
    add("--update_freq", type=positive, default=1, metavar="N", help="batches that make an optimizer step (default: 1)")
    add("--epochs", type=positive, default=epochs, metavar="N", help=f"default: {epochs}")
    add("--lr", type=float, metavar="X", help="learning rate; default: --blr x images of a step / 256")
    add("--blr", type=float, default=blr, metavar="X", help=f"base learning rate (default: {blr})")
    add("--min_lr", type=float, default=min_lr, metavar="X", help=f"at the end of the cosine (default: {min_lr})")
    add("--warmup_epochs", type=float, default=warmup, metavar="N", help=f"of a linear rise (default: {warmup})")
    add("--weight_decay", type=float, default=0.05, metavar="X", help="default: 0.05")
    add("--clip_grad", type=float, metavar="X", help="largest norm of the gradient (default: not clipped)")
    add("--seed", type=count, default=0, metavar="N", help="of weights, order, crops and masks (default: 0)")
    group = parser.add_argument_group("precision and processes")
    add = group.add_argument
    flag(add, "--use_amp", False, "mixed precision")
    types = ("bfloat16", "float16")
    add(
        "--amp_dtype", default=types[0], choices=types, help="of --use_amp (default: bfloat16); float16 scales the loss"
    )
    add("--device", type=device, metavar="D", help="cpu, cuda or cuda:1 (default: a GPU where there is one)")
    how = "under torchrun: whole copies (default), or weights sharded over the processes"
    add("--parallel", default="ddp", choices=("ddp", "fsdp"), help=how)
    flag(add, "--grad_checkpointing", False, "compute activations twice instead of keeping them")
    for name in REFUSED:
        flags = [f"--{name}", *(["--local-rank"] if name == "local_rank" else [])]
        add(*flags, nargs="?", const="true", help=argparse.SUPPRESS)
    group = parser.add_argument_group("moving average of the weights")
    add = group.add_argument
    flag(add, "--model_ema", False, "keep one")
    add("--model_ema_decay", type=share, default=0.9999, metavar="X", help="default: 0.9999")
    flag(add, "--model_ema_force_cpu", False, "keep it on the CPU")
    group = parser.add_argument_group("checkpoints and log")
    add = group.add_argument
    where = "for checkpoints, log.txt and steps.jsonl. Without it nothing is saved"
    add("--output_dir", type=path_text, default="", metavar="DIR", help=where)
    add("--log_dir", type=path_text, metavar="DIR", help="for TensorBoard")
    add("--resume", type=path_text, default="", metavar="FILE", help="checkpoint to go on from")
    flag(add, "--auto_resume", True, "go on from the newest checkpoint in --output_dir")
    flag(add, "--save_ckpt", True, "save checkpoints")
    add("--save_ckpt_freq", type=positive, default=1, metavar="N", help="epochs between them (default: 1)")
    add("--save_ckpt_steps", type=count, default=0, metavar="N", help="also every N steps within an epoch")
    add("--save_ckpt_num", type=positive, default=3, metavar="N", help="newest that are kept (default: 3)")
    add("--start_epoch", type=count, default=0, metavar="N", help="where the schedule starts, without a checkpoint")
    add("--log_freq", type=positive, default=20, metavar="N", help="steps between readings of the loss (default: 20)")
    add("--time_layers", type=count, default=0, metavar="N", help="time every block in N steps (default: 0)")


def add_loading(parser: argparse.ArgumentParser) -> Callable[..., Any]:
    """Where images come from; returns the group's add_argument."""
    group = parser.add_argument_group("images")
    add = group.add_argument
    add("--image_key", default="image", metavar="NAME", help="column of a Hugging Face dataset (default: image)")
    add("--label_key", default="label", metavar="NAME", help="default: label")
    add("--num_workers", type=count, metavar="N", help="loader processes (default: one a core, at most 10); 0: none")
    flag(add, "--pin_mem", True, "page-locked memory, for GPUs")
    add("--no_pin_mem", dest="pin_mem", action="store_false", help=argparse.SUPPRESS)
    return add


def check(args: argparse.Namespace, refused: dict[str, str]) -> None:
    """Flags of upstream's that cannot be honoured, and what argparse does not see.

    Raises:
        CommandError: one of them was given.
    """
    for name, why in {**REFUSED, **refused}.items():
        value = getattr(args, name)
        if value is None or value is False or (name == "dist_url" and value == "env://"):
            continue
        raise CommandError(f"--{name} {why}")
    if args.num_workers is None:
        args.num_workers = workers()
    if args.pin_mem:
        import torch

        args.pin_mem = torch.cuda.is_available()
    for name in ("lr", "blr", "min_lr", "weight_decay", "warmup_epochs", "clip_grad"):
        value = getattr(args, name)
        if value is not None and not 0 <= value < float("inf"):
            raise CommandError(f"--{name} {value}: must be a number from 0")
    if args.save_ckpt_steps and not args.output_dir:
        raise CommandError("--save_ckpt_steps: checkpoints need a place: --output_dir")
