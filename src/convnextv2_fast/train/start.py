"""Where a classifier's weights come from: the file of `--finetune` or `--resume`, and what it says of the model."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..checkpoints import LoadReport, MisfitError, load_checkpoint
from ..checkpoints.contents import describe
from ..checkpoints.files import StateDict, find_state_dict, read_file
from ..errors import CheckpointError, TrainingError
from . import saving
from .recipes import RECIPES

MODEL = "convnextv2_base"  # upstream's default
CHANNELS = (1, 3, 4)
PREPROCESSING: dict[str, Any] = {"input_size": 224, "crop_pct": None, "imagenet_default_mean_and_std": True}
Weights = tuple[StateDict, Mapping[str, Any]]  # and the whole content of their file


def weights(path: Path, key: str = "", use_ema: bool | str = "auto") -> Weights:
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


def preprocessing(content: Mapping[str, Any]) -> dict[str, Any]:
    """How the images of a checkpoint's run were prepared, by option. The default of each takes the place of what the
    file does not tell, or tells in another form: other programs' arguments may have the same names."""
    said = saving.arguments(content)
    size, crop, normal = (said.get(name) for name in PREPROCESSING)
    fits = (
        type(size) is int and size > 0,
        isinstance(crop, float) and 0 < crop <= 1,
        isinstance(normal, bool),
    )
    return {name: said[name] if fit else PREPROCESSING[name] for name, fit in zip(PREPROCESSING, fits, strict=True)}


def adopt(args: Any, resumed: tuple[Path, Mapping[str, Any]] | None = None) -> Weights | None:
    """Takes `--model` and `--in_chans`, where they are not given, from the checkpoint that the run starts with; to be
    evaluated, it tells the preprocessing, too.

    Args:
        resumed: the checkpoint that a run goes on from, `--finetune` or not.
    Returns:
        The weights of `--finetune`, or those to be evaluated; None where a run is resumed.
    Raises:
        TrainingError: the file cannot be read, or tells no size that `--model` knows.
    """
    found = None
    if args.eval and args.resume:
        found = weights(Path(args.resume))
    elif args.finetune and resumed is None:
        found = weights(Path(args.finetune), "" if args.model_key == "model|module" else args.model_key)
    if args.model is None or args.in_chans is None:
        if resumed is not None:
            _describe(args, resumed[1], str(resumed[0]))
        elif found is not None:
            _describe(args, found[0])
    args.model, args.in_chans = args.model or MODEL, args.in_chans or 3
    told = preprocessing(found[1]) if found is not None and args.eval else PREPROCESSING
    for name, value in told.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return found


def _describe(args: Any, source: StateDict | Mapping[str, Any], what: str = "") -> None:
    try:
        source = source if isinstance(source, StateDict) else find_state_dict(source, what=what)
        held = describe(source)
    except CheckpointError as error:
        raise TrainingError(str(error)) from error
    if args.model is None and held.size is None:
        raise TrainingError(f"{source.what}: holds {held}, which is none of the sizes that --model knows")
    args.model = args.model or held.size
    args.in_chans = args.in_chans or (held.in_chans if held.in_chans in CHANNELS else None)


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
        advice = _advice(error, source.what, args) or advice
        lines = [first, second, f"{advice} (--details lists the tensors)"]
        if args.details:
            lines = [first, second, advice, error.details]
        raise TrainingError("\n".join(lines)) from error
    except CheckpointError as error:
        raise TrainingError(str(error)) from error
    finally:
        log.setLevel(level)


def _advice(error: MisfitError, path: str, args: Any) -> str | None:
    """What to do, in the words of the command line; None: what the library says."""
    found, own = error.found, error.own
    if error.other_network and found.size:
        recipe = getattr(args, "recipe", None)
        if recipe and args.model == RECIPES[recipe]["model"]:
            theirs = found.size.removeprefix("convnextv2_")
            instead = f"use --recipe {theirs}" if theirs in RECIPES else "it has none: leave --recipe out"
            return f"the checkpoint holds {theirs}, --recipe {recipe} makes {recipe}: {instead}"
        return f"give --model {found.size}; or leave --model out"
    if error.other_network:
        return None
    if found.in_chans not in (None, 3, own.in_chans):
        return f"give --in_chans {found.in_chans}, or leave --in_chans out"
    if found.classes is None and own.classes is not None:
        return f"it comes from pre-training: fine-tune it first, with finetune --finetune {path}"
    if found.classes != own.classes:
        return "give the images that it was trained for: they tell the number of classes"
    return None
