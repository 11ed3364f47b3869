"""What loading a checkpoint did, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .formats import group_of

_SHOWN = 8  # dropped tensors of one part that a report names


@dataclass(frozen=True)
class LoadReport:
    """What `load_checkpoint` did. Tensors of the model are called as in its `state_dict()`, others as in the file."""

    checkpoint: str  # the path, or "the state dict"
    key: str  # where in it the state dict was; empty: at the top
    format: str
    loaded: int  # how many tensors of the model now hold the checkpoint's values
    left_at_init: tuple[str, ...]  # tensors of the model that kept theirs
    dropped: tuple[str, ...]  # tensors of the checkpoint that were not used
    adapted: tuple[str, ...]  # what was loaded with a change, in words
    unused_ema: str | None  # where the checkpoint also holds a moving average

    def __str__(self) -> str:
        place = f" under {self.key!r}" if self.key else ""
        lines = [f"loaded {self.loaded} tensors from {self.checkpoint} ({self.format}{place})"]
        if self.adapted:
            lines.append(f"adapted: {'; '.join(self.adapted)}")
        if self.left_at_init:
            lines.append(f"left at their initial values: {', '.join(self.left_at_init)}")
        if self.dropped:
            lines.append(f"not used: {', '.join(_summary(self.dropped))}")
        if self.unused_ema:
            lines.append(f"a moving average is there too, under {self.unused_ema!r}: use_ema=True loads it")
        return "\n".join(lines)


def _summary(names: Sequence[str]) -> list[str]:
    """FCMAE's many tensors, which every fine-tuning drops, as one entry, and those of any other network."""
    decoder = [n for n in names if any(group_of(part) == "decoder" for part in n.split("."))]
    own = set(decoder)
    found: dict[str, list[str]] = {}  # by what stands before the first dot
    for n in names:
        if n not in own:
            found.setdefault(n.split(".")[0], []).append(n)
    lines = [[f"{part}.* ({len(of)} tensors)"] if len(of) > _SHOWN else of for part, of in found.items()]
    rest = [line for part in lines for line in part]
    return [*rest, f"the FCMAE decoder ({len(decoder)} tensors)"] if decoder else rest
