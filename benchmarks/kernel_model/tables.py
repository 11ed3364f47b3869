"""The prediction of a pass as text, and all predictions as Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from ..rivals.sizes import SIZES
from . import comparison, measured
from .chips import CHIPS, Chip
from .kernel import Kernel, Step, total
from .passes import Pass

HEADER = ("where", "op", "kernel", "launches", "MB", "GFLOP", "instr. ms", "ms", "measured ms", "predicted/measured")
HOST = "launched one by one: it contains the host's time"


def number(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 1e-3 else f"{value:.1g}" if value else "0"


def beside(case: str, batch: int, times: int, predicted_ms: float, chip: Chip) -> tuple[str, str]:
    """A measured op's milliseconds for `times` calls, and the ratio. Of another batch: of one call, and that batch's
    ratio. It is not scaled, since part of a call's time does not grow with the batch."""
    row = measured.op(chip, case, batch) if case else None
    if row is None or row.ms is None:
        return "", ""
    if row.batch == batch:
        return number(row.ms * times), f"{predicted_ms / (row.ms * times):.2f}"
    compared = comparison.compare(row, chip)
    return f"{number(row.ms)} a call, batch {row.batch}", "" if compared is None else f"{compared.ratio:.2f}"


def kernel_cells(step: Step, kernels: Sequence[Kernel], batch: int, chip: Chip) -> list[str]:
    """A line for kernels of one name."""
    one, n = kernels[0], step.times
    ms = 1e3 * n * sum(kernel.seconds(chip) for kernel in kernels)
    sums = total([Step("", "", "", tuple(kernels), n)], chip)
    work = (sums.moved / 1e6, sums.flops / 1e9, 1e3 * sums.arithmetic_seconds, ms)
    figures = (str(sums.launches), *map(number, work))
    return [step.place, f"{step.op} {step.direction}", one.name, *figures, *beside(one.case, batch, n, ms, chip)]


def table(this: Pass) -> list[list[str]]:
    """HEADER, a line for each kernel of each step, for each measured op its sum, and the total."""
    chip, steps, lines = this.chip, this.steps(), [list(HEADER)]
    for step in steps:
        named: dict[str, list[Kernel]] = defaultdict(list)
        for kernel in step.kernels:
            named[kernel.name].append(kernel)
        lines += [kernel_cells(step, kernels, this.batch, chip) for kernels in named.values()]
        ms = 1e3 * step.seconds(chip)
        found = beside(step.case, this.batch, step.times, ms, chip)
        if found[0]:
            lines.append(
                [step.place, f"{step.op} {step.direction}", "all of these", "", "", "", "", number(ms), *found]
            )
    sums = total(steps, chip)
    work = (sums.moved / 1e6, sums.flops / 1e9, 1e3 * sums.arithmetic_seconds, 1e3 * sums.seconds)
    lines.append(["total", "", "", str(sums.launches), *map(number, work), "", ""])
    return lines


def text(this: Pass) -> str:
    """The table, aligned, and what was measured of the whole pass."""
    lines = table(this)
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    aligned = (
        "  ".join(
            cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
    predicted = 1e3 * this.total().seconds
    says = [f"predicted: {predicted:.2f} ms of kernels on {this.chip.machine} ({this.chip.sources})"]
    for row in this.rows():
        assert row.ms is not None
        host = f"; {HOST}" if measured.has_host(row) else ""
        says.append(f"measured: {row.ms:.2f} ms ({row.mode}{host}); predicted/measured {predicted / row.ms:.2f}")
    if not this.rows():
        says.append("measured: nothing")
    return "\n".join([*(line.rstrip() for line in aligned), *says])


def markdown_table(header: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    cells = [list(header)]
    cells += [["---"] * len(cells[0]), *(list(line) for line in lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


NAMES = {"forward": "inference", "training": "training step", "fcmae": "FCMAE step"}


def label(this: Pass) -> str:
    """A pass in words."""
    how = {"ours": "", "composed": ", composed", "compile": ", torch.compile"}[this.provider]
    return f"{this.size}, {NAMES[this.mode]}{how}, {this.precision}"


def passes() -> str:
    """What was measured beside what was predicted, then what nobody has measured."""
    found = comparison.compared_passes()
    lines = []
    for this, compared in found:
        mode = f"{compared.row.mode}; with the host" if measured.has_host(compared.row) else compared.row.mode
        cells = (f"{compared.predicted_ms:.2f}", f"{compared.row.ms:.2f}", f"{compared.ratio:.2f}", mode)
        lines.append((this.chip.machine, label(this), str(this.batch), *cells))
    return markdown_table(("GPU", "pass", "batch", "predicted ms", "measured ms", "ratio", "measured how"), lines)


def unmeasured() -> str:
    """Passes of tiny that a claim rests on and that no committed result has."""
    wanted = [
        ("forward", 128, "ours"),
        ("forward", 128, "compile"),
        ("forward", 256, "ours"),
        ("forward", 256, "compile"),
        ("training", 64, "ours"),
        ("training", 64, "compile"),
        ("fcmae", 64, "ours"),
    ]
    lines = []
    for chip in CHIPS:
        for mode, batch, provider in wanted:
            this = Pass(chip, "tiny", batch, mode, provider=provider)
            if all(measured.has_host(row) and provider == "ours" for row in this.rows()):
                ms = f"{1e3 * this.total().seconds:.1f} predicted"
                lines.append((this.chip.machine, label(this), str(batch), ms))
    return markdown_table(("GPU", "pass", "batch", "ms, kernels only"), lines)


def sizes() -> str:
    """All eight models."""
    columns = [
        (chip, mode, batch) for chip in CHIPS for mode, batch in (("forward", 128), ("training", 64), ("fcmae", 64))
    ]
    lines = []
    for size in SIZES:
        ms = (1e3 * Pass(chip, size, batch, mode).total().seconds for chip, mode, batch in columns)
        lines.append((size, *(f"{value:.1f}" for value in ms)))
    names = (f"{chip.upper()}, {NAMES[mode]}, batch {batch}" for chip, mode, batch in columns)
    return markdown_table(("predicted ms", *names), lines)


def ops() -> str:
    """Every op's row that the model predicts."""
    lines = []
    for chip in CHIPS.values():
        for compared in comparison.compared_ops(chip):
            row = compared.row
            cells = (f"{compared.predicted_ms:.4f}", f"{row.ms:.4f}", f"{compared.ratio:.2f}")
            lines.append((chip.name.upper(), f"`{row.case}`", row.mode, str(row.batch), *cells))
    return markdown_table(("GPU", "case", "mode", "batch", "predicted ms", "measured ms", "ratio"), lines)


def shares() -> str:
    """Where the predicted time of tiny's passes goes on an H100, by op and direction."""
    columns = [Pass("h100", "tiny", 128), Pass("h100", "tiny", 64, "training"), Pass("h100", "tiny", 64, "fcmae")]
    found: dict[str, list[float]] = {}
    for i, this in enumerate(columns):
        for step in this.steps():
            key = (
                f"{step.op}, {step.direction}" if step.op in ("dwconv_layer_norm", "mlp_grn", "patch_conv") else "else"
            )
            found.setdefault(key, [0.0] * len(columns))[i] += 1e3 * step.seconds(this.chip)
    else_last = sorted(found, key=lambda key: key == "else")
    lines = [(key, *(f"{ms:.2f}" if ms else "" for ms in found[key])) for key in else_last]
    return markdown_table(("predicted ms, H100", *(f"{label(this)}, batch {this.batch}" for this in columns)), lines)
