"""Steps with the host's part, as tables: before a block became one operator for each direction, and after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from . import comparison, host, measured
from .chips import CHIPS
from .passes import Pass
from .tables import NAMES, label, markdown_table

BEFORE, AFTER = "composed", "ours"
PASSES = (("forward", 1), ("forward", 128), ("training", 64), ("fcmae", 64))


def ms(value: float) -> str:
    return f"{value:.2f}"


def both(
    chip: str, way: str, slowdown: float, instructions: float | None
) -> Iterator[tuple[Pass, host.Step, host.Step]]:
    """tiny's passes, each before and after. `instructions`: of today's GELU, instead of those counted."""
    for mode, batch in PASSES:
        after = Pass(chip, "tiny", batch, mode, provider=AFTER, instructions=instructions)
        before = replace(after, provider=BEFORE, instructions=None)
        yield after, host.step(before, way, slowdown), host.step(after, way, slowdown)


def steps(slowdown: float = host.SLOWDOWN, instructions: float | None = None) -> str:
    """All passes in all ways on all chips."""
    lines = []
    for name, chip in CHIPS.items():
        of_way = {way: list(both(name, way, slowdown, instructions)) for way in host.WAYS}
        for i, (mode, batch) in enumerate(PASSES):
            for way, found in of_way.items():
                _, before, after = found[i]
                pairs = ((step.kernels_ms, step.host_ms, step.ms) for step in (before, after))
                figures = (ms(value) for pair in zip(*pairs, strict=True) for value in pair)
                lines.append((chip.machine, NAMES[mode], str(batch), way, *figures))
    parts = (f"{what}, {when}, ms" for what in ("kernels", "host", "step") for when in ("before", "after"))
    return markdown_table(("GPU", "pass of tiny", "batch", "run", *parts), lines)


def slowdowns() -> str:
    """How much of that depends on the host, on an H100."""
    hosts = (1.0, 2.0, 3.5)
    lines = []
    for way in ("eager", "compiled"):
        columns = [list(both("h100", way, slowdown, None)) for slowdown in hosts]
        for found in zip(*columns, strict=True):
            this = found[0][0]
            cells = (ms(step.ms) for _, *pair in found for step in pair)
            lines.append((NAMES[this.mode], str(this.batch), way, *cells))
    names = (f"step, {when}, slowdown {slow:g}, ms" for slow in hosts for when in ("before", "after"))
    return markdown_table(("pass of tiny", "batch", "run", *names), lines)


def checked() -> list[tuple[Pass, float, float]]:
    """Committed steps that were launched kernel by kernel: what was predicted with the host's part, and measured."""
    found = []
    for this, compared in comparison.compared_passes():
        row = compared.row
        if this.provider in (BEFORE, AFTER) and measured.has_host(row) and row.ms is not None:
            found.append((this, host.step(this, "eager").ms, row.ms))
    return found


def check() -> str:
    """These as a table."""
    lines = [
        (this.chip.machine, label(this), str(this.batch), f"{predicted:.1f}", f"{seen:.1f}", f"{predicted / seen:.2f}")
        for this, predicted, seen in checked()
    ]
    return markdown_table(("GPU", "pass", "batch", "predicted ms", "measured ms", "predicted ÷ measured"), lines)


def text(slowdown: float, instructions: float | None) -> str:
    """What the command prints."""
    says = f"predicted, not measured on a GPU; the host takes {slowdown:g} times as long as the machine of its figures"
    return f"{steps(slowdown, instructions)}\n{says}"
