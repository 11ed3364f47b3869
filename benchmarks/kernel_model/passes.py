"""A whole pass as it is asked for, its steps, and the committed rows of the same pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..reports.tidy import Row
from . import chips, compiled, measured, models, pretraining
from .chips import Chip
from .kernel import Step, Total, total
from .ops import COUNTED, EARLIER, Gelu, Setting

Count = Callable[[Setting, str, int, int], list[Step]]
COUNTS: dict[tuple[str, str], Count] = {
    ("ours", "forward"): models.forward,
    ("ours", "training"): models.training,
    ("ours", "fcmae"): pretraining.step,
    ("composed", "forward"): models.forward,
    ("composed", "training"): models.training,
    ("composed", "fcmae"): pretraining.step,
    ("compile", "forward"): compiled.forward,
    ("compile", "training"): compiled.training,
}
PROVIDERS, MODES = ("ours", "composed", "compile"), ("forward", "training", "fcmae")
DTYPES = {"forward": ("bfloat16", "amp"), "training": ("amp",), "fcmae": ("amp",)}  # the usual one first


@dataclass(frozen=True)
class Pass:
    """What is predicted.

    Attributes:
        mode: "forward" (inference), "training" (forward, loss, backward) or "fcmae" (the same of pre-training).
        dtype: "bfloat16" for everything, or "amp": float32 parameters under autocast; empty for the usual one.
        provider: "ours", the CUDA backend; "composed", the same while a block was two ops, each of a dozen calls; or
            "compile", torch.compile's default mode.
        resolution: edge of the images in pixels.
        instructions: of an element in the kernels that compute GELU, instead of those counted in their code.
    """

    chip_name: str
    size: str
    batch: int
    mode: str = "forward"
    dtype: str = ""
    provider: str = "ours"
    resolution: int = 224
    instructions: float | None = None

    @property
    def chip(self) -> Chip:
        return chips.find(self.chip_name)

    @property
    def precision(self) -> str:
        return self.dtype or DTYPES[self.mode][0]

    def steps(self) -> list[Step]:
        """Counted afresh.

        Raises:
            ValueError: there is no such chip, model or pass, in one sentence.
        """
        chip = self.chip
        if (self.provider, self.mode) not in COUNTS:
            known = ", ".join(f"{provider} {mode}" for provider, mode in COUNTS)
            raise ValueError(f"{self.provider} {self.mode} is not counted: choose one of {known}")
        if self.precision not in DTYPES[self.mode]:
            raise ValueError(f"{self.mode} is counted in {', '.join(DTYPES[self.mode])}, not in {self.precision}")
        composed = self.provider == "composed"
        gelu = EARLIER if composed else COUNTED
        if self.instructions is not None:
            gelu = Gelu(self.instructions, self.instructions, self.instructions, gelu.special)
        setting = Setting(chip, self.precision == "amp", composed, gelu)
        return COUNTS[self.provider, self.mode](setting, self.size, self.batch, self.resolution)

    def total(self) -> Total:
        return total(self.steps(), self.chip)

    def rows(self) -> list[Row]:
        """Measurements of it, with those before whose time is the GPU's alone."""
        found = measured.passes(
            self.chip, self.mode, self.size, self.batch, self.resolution, self.precision, self.provider
        )
        return sorted(found, key=measured.has_host)
