"""`pretrain`: FCMAE, with upstream's arguments."""

from __future__ import annotations

import argparse
from typing import Any

from .arguments import path_text, positive
from .training import add_loading, add_run, check, flag, models, share

NAMES = [f"convnextv2_{size}" for size in ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge")]
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
    add = add_loading(parser)
    where = "folder of images (its train/ if there is one), a Hugging Face dataset's name or folder, webdataset shards"
    add("--data_path", type=path_text, required=True, metavar="PATH", help=where)
    kinds = ("folder", "hf", "hf-stream", "wds")
    add("--data_set", default="folder", choices=kinds, help="what --data_path is (default: folder)")
    add("--split", default="train", metavar="NAME", help="of a Hugging Face dataset (default: train)")
    add("--epoch_samples", type=positive, metavar="N", help="images of an epoch; for streams")
    add("--input_size", type=positive, default=224, metavar="N", help="pixels a side, a multiple of 32 (default: 224)")
    add("--in_chans", type=int, default=3, choices=(1, 3, 4), help="1: grey, 3: RGB, 4: RGBA (default: 3)")
    add("--crop_pct", type=float, help=argparse.SUPPRESS)
    add = parser.add_argument_group("model").add_argument
    add("--model", type=models(NAMES), default="convnextv2_base", metavar="NAME", help=f"{', '.join(NAMES)}")
    add("--mask_ratio", type=share, default=0.6, metavar="X", help="share of patches that are removed (default: 0.6)")
    add("--patch_size", type=positive, default=32, metavar="N", help="pixels of a patch: 4 x 2**k (default: 32)")
    flag(add, "--norm_pix_loss", True, "normalise the target patch by patch")
    add("--decoder_depth", type=positive, default=1, metavar="N", help="default: 1")
    add("--decoder_embed_dim", type=positive, default=512, metavar="N", help="default: 512")
    scope = "GRN's norm over the batch, as upstream's code (default), or each sample, as the dense model (recommended)"
    add("--grn_scope", default="batch", choices=("batch", "sample"), help=scope)
    init = "of the weights: upstream's (default) has a std of 1, std02 of 0.02 (recommended)"
    add("--init", default="upstream", choices=("upstream", "std02"), help=init)
    flag(add, "--decay_grn", True, "weight decay of GRN and the mask token, as upstream")
    add_run(parser, epochs=800, warmup=40, blr=1.5e-4, min_lr=0.0)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trains; 0 when the last epoch is done and saved.

    Raises:
        CommandError, TrainingError: arguments, data or checkpoints that cannot be used.
    """
    check(args, REFUSED)
    from ..train import pretrain

    pretrain.run(args)
    return 0
