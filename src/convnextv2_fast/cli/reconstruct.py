"""`reconstruct`: what a pre-trained FCMAE makes of an image; `curve`: the losses of runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ._arguments import CommandError, count, positive
from ._training import boolean, share


def add_parser(commands: Any) -> None:
    """Adds both commands to argparse's subparsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "reconstruct",
        help="an image, masked and painted in by a pre-trained FCMAE, as one PNG",
        description="Writes original, masked, reconstruction and the reconstruction with the visible pixels pasted in.",
    )
    add = parser.add_argument
    add("checkpoint", type=Path, help="of pretrain, or of upstream's main_pretrain.py")
    add("image", type=Path)
    add("--out", type=Path, metavar="FILE", help="default: reconstruction.png")
    add("--size", type=positive, default=224, metavar="N", help="pixels of a side (default: 224)")
    add("--mask_ratio", type=share, default=0.6, metavar="X", help="default: 0.6")
    add("--seed", type=count, default=0, metavar="N", help="of the mask (default: 0)")
    add("--norm_pix_loss", type=boolean, metavar="true|false", help="default: what the checkpoint says, else true")
    parser.set_defaults(run=_reconstruct)
    parser = commands.add_parser("curve", help="loss curves of runs as one picture")
    add = parser.add_argument
    add("log", type=Path, nargs="+", help="an output folder, steps.jsonl, or log.txt, upstream's too")
    add("--out", type=Path, metavar="FILE", help="default: curve.png")
    add("--log_scale", action="store_true", help="of the loss")
    parser.set_defaults(run=_curve)


def _reconstruct(args: argparse.Namespace) -> int:
    from ..train import TrainingError, pictures

    out = args.out or Path("reconstruction.png")
    try:
        loss = pictures.reconstruct(
            args.checkpoint,
            args.image,
            out,
            size=args.size,
            mask_ratio=args.mask_ratio,
            seed=args.seed,
            norm_pix_loss=args.norm_pix_loss,
        )
    except TrainingError as error:
        raise CommandError(str(error)) from error
    print(f"wrote {out}: loss {loss:.4f}")
    return 0


def _curve(args: argparse.Namespace) -> int:
    from ..train import TrainingError, curves

    out = args.out or Path("curve.png")
    try:
        curves.draw(args.log, out, args.log_scale)
    except TrainingError as error:
        raise CommandError(str(error)) from error
    print(f"wrote {out}")
    return 0
