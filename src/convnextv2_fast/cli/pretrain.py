"""`pretrain`: FCMAE, with upstream's arguments."""

from __future__ import annotations

import argparse
from typing import Any

from ..train import PretrainConfig, pretrain
from .training import add_options, given

REFUSED = {"crop_pct": "has no meaning in pre-training: crops are drawn, nothing is evaluated (upstream ignores it)"}

DESCRIPTION = """\
Pre-trains a ConvNeXt V2 as a masked autoencoder on images without labels. The same
command, started again, resumes from the newest checkpoint in --output_dir."""
EXAMPLES = """\
examples:
  python -m convnextv2_fast pretrain --data_path images --model tiny \\
      --init std02 --grn_scope sample --output_dir runs/tiny
  torchrun --nproc_per_node=8 -m convnextv2_fast pretrain --data_path imagenet --model base \\
      --init std02 --grn_scope sample --use_amp --output_dir runs/base

--init and --grn_scope default to what upstream's code does; std02 and sample are what we
recommend. --blr is scaled by the images of a step, as upstream does: with few of them,
give --lr itself, such as --lr 1e-3 for 16 images. Set --epochs and --warmup_epochs, too:
upstream's 800 and 40 are for ImageNet."""


def add_parser(commands: Any) -> None:
    """Adds the command to argparse's subparsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "pretrain",
        help="FCMAE pre-training, alone or under torchrun",
        usage="%(prog)s --data_path PATH [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    add_options(parser, PretrainConfig, REFUSED)
    parser.set_defaults(run=run)


def config(args: argparse.Namespace) -> PretrainConfig:
    """What a command line asks for."""
    return PretrainConfig(**given(args, PretrainConfig, REFUSED))


def run(args: argparse.Namespace) -> int:
    """Trains; 0 when the last epoch is done and saved.

    Raises:
        CommandError, TrainingError: options, data or checkpoints that cannot be used.
    """
    pretrain(config(args))
    return 0
