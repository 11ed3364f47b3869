"""`convert`: a checkpoint file in the format of another library."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import FORMATS, CheckpointError, read_state_dict
from ..checkpoints.convert import canonicalise, rewrite
from .arguments import CommandError, path

_CONTAINER = {"upstream": "model", "fcmae": "model", "mmpretrain": "state_dict"}  # the others read a bare state dict


def add_parser(commands: Any) -> None:
    """Adds the command to argparse's subparsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "convert",
        help="rewrite a checkpoint in the format of another library",
        description="Converts a ConvNeXt V2 checkpoint. Tensors are renamed and reshaped, never computed.",
        epilog="Example: python -m convnextv2_fast convert timm.safetensors upstream.pth --to upstream",
    )
    add = parser.add_argument
    add("source", type=path, help="checkpoint to read (.pth, .pt, .bin, .safetensors)")
    add("destination", type=path, help="file to write: .safetensors, or anything else for torch.save")
    add("--to", required=True, choices=FORMATS, help="format to write")
    add("--from", dest="format", default="auto", choices=["auto", *FORMATS], help="format to read (default: detect)")
    add("--use-ema", action="store_true", help="take the moving average")
    add("--drop-extra", action="store_true", help="leave out what the format to write has no place for")
    add("--ignore", action="append", default=[], metavar="PREFIX", help="leave out tensors named so (repeatable)")
    add("--prefix", metavar="NAME", help="take what lies under it, where the file holds several networks")
    add("--conv-mlp", choices=["true", "false"], help="timm, widths of your own: 1x1 convolutions or linears")
    add("--force", action="store_true", help="overwrite the destination")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Converts; 0.

    Raises:
        CommandError: the file cannot be read, converted or written.
    """
    try:
        if args.destination.exists() and not args.force:
            raise CheckpointError(f"{args.destination}: exists (--force overwrites it)")
        given = read_state_dict(args.source, True if args.use_ema else "auto")
        found = canonicalise(given, args.format, args.ignore, str(args.source), args.prefix)
        conv_mlp = None if args.conv_mlp is None else args.conv_mlp == "true"
        converted = rewrite(found, args.to, conv_mlp=conv_mlp, drop_extra=args.drop_extra)
        _write(converted, args.destination, args.to)
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    left_out = len(given) - len(converted)
    tail = f", {left_out} left out" if left_out else ""
    print(f"{args.destination}: {len(converted)} tensors, {found.format.name} to {args.to}{tail}")
    return 0


def _write(tensors: dict[str, Tensor], path: Path, target: str) -> None:
    """Write beside the destination and move into place: a file of that name is never half a checkpoint."""
    partial = path.with_name(path.name + ".part")
    try:
        if path.suffix == ".safetensors":
            try:
                from safetensors.torch import save_file
            except ImportError as e:
                raise CheckpointError(f"{path}: writing it needs the package safetensors (pip install it)") from e
            save_file(tensors, partial, metadata={"format": "pt"})
        else:
            torch.save({_CONTAINER[target]: tensors} if target in _CONTAINER else tensors, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
