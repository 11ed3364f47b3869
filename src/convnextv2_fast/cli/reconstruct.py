"""`reconstruct`: what a pre-trained FCMAE makes of images; `curve`: the losses of runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..train.options import BOOLEAN, SHARE
from .arguments import RANGE, checked, count, ordered, path, positive


def add_parser(commands: Any) -> None:
    """Adds both commands to argparse's subparsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "reconstruct",
        help="images, masked and painted in by a pre-trained FCMAE, as one picture",
        description="Writes one sheet, a row for each image: the original, what the model saw of it, its "
        "reconstruction, and the reconstruction with the visible pixels pasted in.",
        epilog="Example: python -m convnextv2_fast reconstruct runs/tiny/checkpoint-799.pth photos --out sheet.png",
    )
    add = parser.add_argument
    add("checkpoint", type=path, help="of pretrain, or of upstream's main_pretrain.py")
    add("image", type=path, nargs="+", help="a file, or a folder of images")
    add("--out", type=path, metavar="FILE", help="default: reconstruction.png")
    add("--size", type=positive, metavar="N", help="pixels of a side (default: as in pre-training)")
    add("--limit", type=positive, default=16, metavar="N", help="most images on the sheet (default: 16)")
    add("--mask_ratio", type=checked(SHARE), default=0.6, metavar="X", help="default: 0.6")
    add("--seed", type=count, default=0, metavar="N", help="of the mask (default: 0)")
    add("--value_range", **RANGE)
    told = "default: what the checkpoint says, else true"
    add("--norm_pix_loss", type=checked(BOOLEAN), metavar="true|false", help=told)
    parser.set_defaults(run=_reconstruct)
    parser = commands.add_parser("curve", help="loss curves of runs as one picture")
    add = parser.add_argument
    add("log", type=path, nargs="+", help="an output folder, steps.jsonl, or log.txt, upstream's too")
    add("--out", type=path, metavar="FILE", help="default: curve.png")
    add("--log_scale", action="store_true", help="of the loss")
    parser.set_defaults(run=_curve)


def _reconstruct(args: argparse.Namespace) -> int:
    """Draws; 0, or 1 where an image could not be read."""
    from ..train import pictures

    out = args.out or Path("reconstruction.png")
    problems: list[str] = []
    rows = pictures.reconstruct(
        args.checkpoint,
        args.image,
        out,
        size=args.size,
        mask_ratio=args.mask_ratio,
        seed=args.seed,
        norm_pix_loss=args.norm_pix_loss,
        limit=args.limit,
        value_range=ordered(args.value_range),
        warn=problems.append,
        note=lambda text: print(f"warning: {text}", file=sys.stderr),
    )
    for text in problems:
        print(f"warning: {text}", file=sys.stderr)
    loss = sum(row.loss for row in rows) / len(rows)
    print(f"wrote {out}: loss {loss:.4f}" + (f", mean of {len(rows)} images" if len(rows) > 1 else ""))
    return 1 if problems else 0


def _curve(args: argparse.Namespace) -> int:
    from ..train import curves

    out = args.out or Path("curve.png")
    curves.draw(args.log, out, args.log_scale)
    print(f"wrote {out}")
    return 0
