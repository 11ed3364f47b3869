"""Where a classifier's weights come from: the file of `--finetune` or `--resume`, and what it says of the model."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..checkpoints import CheckpointError, LoadReport, MisfitError, load_checkpoint
from ..checkpoints.contents import describe
from ..checkpoints.files import StateDict, find_state_dict, read_file
from . import TrainingError

MODEL = "convnextv2_base"  # upstream's default
CHANNELS = (1, 3, 4)


def weights(path: Path, key: str = "", use_ema: bool | str = "auto") -> tuple[StateDict, Mapping[str, Any]]:
    """A file's state dict, and the file's whole content.

    Args:
        key: names of entries to look under, the first that is there, as upstream's `--model_key`: "model|module".
            Empty: it is found.
        use_ema: as `read_state_dict`.
    Raises:
        TrainingError: no readable checkpoint.
    """
    try:
        content = read_file(path)
        held: Any = content
        if key:
            keys = [name for name in key.split("|") if name in content]
            if not keys:
                raise TrainingError(f"{path}: has none of --model_key {key}; it has {', '.join(content)}")
            held = content[keys[0]]
        return find_state_dict(held, use_ema, what=str(path)), content
    except (CheckpointError, TypeError) as error:  # TypeError: what lies there is no mapping
        raise TrainingError(str(error) if isinstance(error, CheckpointError) else f"{path}: {error}") from error


def adopt(args: Any) -> StateDict | None:
    """Takes `--model` and `--in_chans`, where they are not given, from the file of `--finetune` or `--resume`.

    Returns:
        The weights of `--finetune`.
    Raises:
        TrainingError: the file cannot be read, or tells no size that `--model` knows.
    """
    found = None
    if args.finetune:
        found, _ = weights(Path(args.finetune), "" if args.model_key == "model|module" else args.model_key)
    source = found
    if source is None and args.resume and (args.model is None or args.in_chans is None):
        source, _ = weights(Path(args.resume))
    if source is not None and (args.model is None or args.in_chans is None):
        try:
            held = describe(source)
        except CheckpointError as error:
            raise TrainingError(str(error)) from error
        if args.model is None and held.size is None:
            raise TrainingError(f"{source.what}: holds {held}, which is none of the sizes that --model knows")
        args.model = args.model or held.size
        args.in_chans = args.in_chans or (held.in_chans if held.in_chans in CHANNELS else None)
    args.model, args.in_chans = args.model or MODEL, args.in_chans or 3
    return found


def load(model: nn.Module, source: StateDict, args: Any, head: str = "auto") -> LoadReport:
    """`load_checkpoint`, whose errors speak of the command's options. The report is for the caller to print: the
    library's log, which warns of the same, is silent meanwhile.

    Raises:
        TrainingError: the checkpoint does not fit.
    """
    log = logging.getLogger("convnextv2_fast")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        return load_checkpoint(model, source, head=head)
    except MisfitError as error:
        if int(os.environ.get("RANK", 0)):  # every process finds the same
            raise TrainingError(f"{source.what} does not fit the model; process 0 says more") from error
        first, second, advice = error.summary.splitlines()
        advice = _advice(error, source.what, getattr(args, "recipe", None)) or advice
        lines = [first, second, f"{advice} (--details lists the tensors)"]
        if args.details:
            lines = [first, second, advice, error.details]
        raise TrainingError("\n".join(lines)) from error
    except CheckpointError as error:
        raise TrainingError(str(error)) from error
    finally:
        log.setLevel(level)


def _advice(error: MisfitError, path: str, recipe: str | None) -> str | None:
    """What to do, in the words of the command line; None: what the library says."""
    found, own = error.found, error.own
    if error.other_network and found.size:
        instead = f"--recipe {recipe} is for another size" if recipe else "or leave --model out"
        return f"give --model {found.size}; {instead}"
    if error.other_network:
        return None
    if found.in_chans not in (None, 3, own.in_chans):
        return f"give --in_chans {found.in_chans}, or leave --in_chans out"
    if found.classes is None and own.classes is not None:
        return f"it comes from pre-training: fine-tune it first, with finetune --finetune {path}"
    if found.classes != own.classes:
        return "give the images that it was trained for: they tell the number of classes"
    return None
