"""`finetune`: a classifier, with upstream's arguments; `--eval` only measures one."""

from __future__ import annotations

import argparse
from typing import Any

from ..train import FinetuneConfig, finetune
from .training import add_options, given

REFUSED = {
    "resplit": "needs augmentation splits, which this recipe has none of (upstream ignores it)",
    "model_prefix": "is not needed: prefixes are found and stripped",
}

DESCRIPTION = """\
Fine-tunes a ConvNeXt V2 classifier from any checkpoint that load_checkpoint knows, or
from random weights. The classes are the folders' names. The same command, started
again, resumes from the newest checkpoint in --output_dir."""
EXAMPLES = """\
examples:
  python -m convnextv2_fast finetune --data_path images --finetune runs/tiny/checkpoint-799.pth \\
      --epochs 30 --warmup_epochs 3 --lr 5e-4 --batch_size 32 --output_dir tuned
      reads images/train/CLASS/IMAGE and images/val/CLASS/IMAGE
  python -m convnextv2_fast finetune --data_path images --eval --resume tuned/checkpoint-best.pth
  python -m convnextv2_fast predict photo.jpg --checkpoint tuned/checkpoint-best.pth

--recipe sets upstream's published values; options that are given override them."""


def add_parser(commands: Any) -> None:
    """Adds the command to argparse's subparsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "finetune",
        help="train a classifier from a checkpoint, or evaluate one",
        usage="%(prog)s --data_path PATH [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    add_options(parser, FinetuneConfig, REFUSED)
    parser.set_defaults(run=run)


def config(args: argparse.Namespace) -> FinetuneConfig:
    """What a command line asks for: a recipe's values take the place of the defaults."""
    found = given(args, FinetuneConfig, REFUSED)
    return FinetuneConfig.of_recipe(**found) if "recipe" in found else FinetuneConfig(**found)


def run(args: argparse.Namespace) -> int:
    """Trains or evaluates; 0 when that is done.

    Raises:
        CommandError, TrainingError: options, data or checkpoints that cannot be used.
    """
    finetune(config(args))
    return 0
