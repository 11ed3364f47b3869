"""What the dense and the sparse model share in running their stages and stems."""

from __future__ import annotations

from typing import Any

from torch import nn

from .. import changes, fusion


def may_be_skipped(stage: nn.Module) -> bool:
    """Whether the blocks of a stage may be called one by one, as gradient checkpointing does, instead of the stage:
    it is a plain Sequential, and nobody has put hooks or another forward on it."""
    return type(stage) is nn.Sequential and changes.touched(stage) is None and fusion.why_not_any() is None


def image_channels(stem: Any) -> int | None:
    """The channels of images that a stem takes: those of its first convolution; None for a stem without one."""
    return next((m.in_channels for m in stem.modules() if isinstance(m, nn.Conv2d)), None)
