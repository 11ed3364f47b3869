"""Moving averages of weights, which a graph may hold where they stay on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import UnsupportedInputError

_NUMBERS = ("decay", "foreach", "exclude_buffers")  # of ModelEmaV3, that a graph holds


def check(ema: Any) -> None:
    """
    Raises:
        UnsupportedInputError: the average follows the number of the step, which `ema.update(model)` does not give.
    """
    for name in ("use_warmup", "update_after_step"):
        if getattr(ema, name, False):
            raise UnsupportedInputError(
                f"graphs.TrainingStep: ema= calls ema.update(model) without the number of the step, so {name}="
                f"{getattr(ema, name)!r} of {type(ema).__name__} would have no effect; leave ema= out and call "
                "ema.update(model, step=...) yourself after each step"
            )


def why_not(ema: Any, device: torch.device) -> str | None:
    """Why no graph can hold `ema.update(model)`; None: one can."""
    if type(ema).__module__ != "timm.utils.model_ema" or type(ema).__name__ != "ModelEmaV3":
        return f"the moving average is a {type(ema).__name__}; timm's ModelEmaV3 is known to stay on the device"
    average: nn.Module = ema.module
    held = [*average.parameters(), *average.buffers()]
    if any(t.device != device for t in held):
        return "the moving average is kept on another device"
    if not ema.foreach:
        return "the moving average goes tensor by tensor; build ModelEmaV3 without device= and foreach="
    if any(t.dtype == torch.bfloat16 for t in held):
        return "a moving average in bfloat16 rounds at random, from a generator of its own"
    return None


def numbers(ema: Any) -> tuple[Any, ...]:
    """What a graph of its update holds as numbers."""
    return tuple(getattr(ema, name, None) for name in _NUMBERS)
