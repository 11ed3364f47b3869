"""Where a classifier's weights come from: the file of `--finetune` or `--resume`, and what it says of the model."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ..checkpoints import LoadReport, MisfitError, load_checkpoint
from ..checkpoints.contents import Contents, describe
from ..checkpoints.files import StateDict, find_state_dict, read_file
from ..errors import CheckpointError, TrainingError
from . import saving
from .finetune_config import FinetuneConfig, Preprocessing
from .recipes import RECIPES

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


def preprocessing(content: Mapping[str, Any]) -> Preprocessing:
    """How the images of a checkpoint's run were prepared. The default of each option takes the place of what the file
    does not tell, or tells in another form: other programs' arguments may have the same names."""
    said = saving.arguments(content)
    fits: dict[str, Callable[[Any], bool]] = {
        "input_size": lambda size: type(size) is int and size > 0,
        "crop_pct": lambda crop: isinstance(crop, float) and 0 < crop <= 1,
        "imagenet_default_mean_and_std": lambda normal: isinstance(normal, bool),
        "value_range": _is_range,
    }
    return Preprocessing(**{name: said[name] for name, fit in fits.items() if fit(said.get(name))})


def _is_range(held: Any) -> bool:
    numbers = isinstance(held, list) and len(held) == 2 and all(isinstance(value, int | float) for value in held)
    return numbers and held[0] < held[1]


def adopt(
    config: FinetuneConfig, resumed: tuple[Path, Mapping[str, Any]] | None = None
) -> tuple[FinetuneConfig, Weights | None]:
    """Takes `--model` and `--in_chans`, where they are not given, from the checkpoint that the run starts with; to be
    evaluated, it tells the preprocessing, too; to be trained, `--value_range` of it.

    Args:
        resumed: the checkpoint that a run goes on from, `--finetune` or not.
    Returns:
        The configuration with what was found, and the weights of `--finetune`, or those to be evaluated; None where a
        run is resumed.
    Raises:
        TrainingError: the file cannot be read, or tells no size that `--model` knows.
    """
    found = None
    if config.eval and config.resume:
        found = weights(Path(config.resume))
    elif config.finetune and resumed is None:
        found = weights(Path(config.finetune), "" if config.model_key == "model|module" else config.model_key)
    size, channels = config.model, config.in_chans
    if size is None or channels is None:
        if resumed is not None:
            held = _described(resumed[1], str(resumed[0]), size)
        elif found is not None:
            held = _described(found[0], "", size)
        else:
            held = None
        if held is not None:
            size = size or held.size
            channels = channels or held.in_chans
    content = resumed[1] if resumed is not None else found[1] if found is not None else {}
    told = preprocessing(content)
    if not config.eval:  # training may change everything but the scale of the values that the weights have met
        told = Preprocessing(value_range=told.value_range)
    missing = {name: value for name, value in vars(told).items() if getattr(config, name) is None}
    return replace(config, model=size or config.network, in_chans=channels or config.channels, **missing), found


def _described(source: StateDict | Mapping[str, Any], what: str, size: str | None) -> Contents:
    try:
        source = source if isinstance(source, StateDict) else find_state_dict(source, what=what)
        held = describe(source)
    except CheckpointError as error:
        raise TrainingError(str(error)) from error
    if size is None and held.size is None:
        raise TrainingError(f"{source.what}: holds {held}, which is not one of the sizes that --model knows")
    return held


def load(model: nn.Module, source: StateDict, head: str, config: FinetuneConfig | None = None) -> LoadReport:
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
        advice = _advice(error, source.what, config) or advice
        lines = [first, second, f"{advice} (--details lists the tensors)"]
        if config is None or config.details:
            lines = [first, second, advice, error.details]
        raise TrainingError("\n".join(lines)) from error
    except CheckpointError as error:
        raise TrainingError(str(error)) from error
    finally:
        log.setLevel(level)


def _advice(error: MisfitError, path: str, config: FinetuneConfig | None) -> str | None:
    """What to do, in the words of the command line; None: what the library says."""
    found, own = error.found, error.own
    if error.other_network and found.size:
        recipe = config.recipe if config is not None else None
        if recipe and config is not None and config.model == RECIPES[recipe]["model"]:
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
