"""`predict`: the classes of images, by name, with their probabilities."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import torch

from .arguments import RANGE, CommandError, device, ordered, path, positive, require_device


def add_parser(commands: Any) -> None:
    """Adds the command to argparse's subparsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "predict",
        help="the most probable classes of images, from a fine-tuned checkpoint",
        description="Prints the most probable classes of each image. Checkpoints of finetune know the names of their "
        "classes, their image size and their normalisation; other classifiers that load_checkpoint reads are taken at "
        "224 pixels with ImageNet's mean and deviation.",
        epilog="Example: python -m convnextv2_fast predict photo.jpg --checkpoint tuned/checkpoint-best.pth",
    )
    add = parser.add_argument
    add("image", type=path, nargs="+", help="a file, or a folder of images")
    add("--checkpoint", type=path, required=True, metavar="FILE", help="of finetune, or any classifier")
    add("--top", type=positive, default=5, metavar="N", help="classes of each image (default: 5)")
    add("--names", type=path, metavar="FILE", help="the class names, one a line (default: the checkpoint's)")
    add("--use_ema", action="store_true", help="take the moving average of the weights")
    add("--input_size", type=positive, metavar="N", help="pixels of a side (default: as in training)")
    add("--value_range", **RANGE)
    add("--device", type=device, metavar="D", help="cpu, cuda or cuda:1 (default: a GPU where there is one)")
    add("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Predicts; 0, or 1 where an image could not be read.

    Raises:
        CommandError, TrainingError: the checkpoint cannot be used, or none of the images.
    """
    from ..train import predict

    where = require_device(args.device or torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    unreadable: list[str] = []
    records: list[dict[str, Any]] = []
    seen = 0
    found = predict.classifier(args.checkpoint, args.use_ema, args.input_size, args.names, ordered(args.value_range))
    for prediction in predict.predict(found, args.image, args.top, where, unreadable.append):
        seen += 1
        if args.json:
            top = [{"class": name, "probability": p} for name, p in prediction.top]
            records.append({"image": str(prediction.file), "top": top})
            continue
        print(prediction.file)
        for name, probability in prediction.top:
            print(f"  {100 * probability:5.1f} %  {name}")
    if args.json:
        print(json.dumps(records, indent=1))
    if not seen:
        raise CommandError("\n".join(unreadable))
    for text in unreadable:
        print(f"warning: {text}", file=sys.stderr)
    return 1 if unreadable else 0
