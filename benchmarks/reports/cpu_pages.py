"""The CPU report as a page and as a plot, made of its rows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from . import program
from .cpu_speed import MINE, PEAK, groups, milliseconds, model, of, peaks, per_image, served, speed, taken
from .naming import OURS
from .program import Plot, Rows, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPEED = {
    "inference": "Inference",
    "neighbour": "Inference beside a busy process",
    "small": "Inference on one image of 32 x 32 pixels",
    "training": "Training step",
    "pretraining": "FCMAE step",
    "sizes": "All sizes",
}
TOLD = {
    "pretraining": "60 % of the patches are removed; the sums of GRN go over the whole batch, as upstream's do. "
    '*std 1*: weights initialised as upstream\'s code does it, the others by `init="std02"`. ',
}
GROWTH = ("growth-batch", "growth-side", "growth-threads")
PARTS = ("ceilings", *SPEED, "servers", "ops", "memory", *GROWTH)


def exponent(times: Mapping[int, float]) -> float:
    """The slope of log time over log size, by least squares."""
    xs, ys = [math.log(k) for k in times], [math.log(v) for v in times.values()]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)) / sum((x - mx) ** 2 for x in xs)


def _ceilings(rows: Rows) -> list[str]:
    """Measured limits, a line a dtype."""
    found = {(row.case, row.dtype): row.notes for row in rows if row.case != PEAK}
    at_peak = {(row.dtype, row.mode): 1e3 * float(row.notes["tflop_per_s"]) for row in rows if row.case == PEAK}
    modes = list(dict.fromkeys(mode for _, mode in at_peak))
    lines = []
    for dtype in dict.fromkeys(row.dtype for row in rows):
        copy = f"{float(found['copy', dtype]['gb_per_s']):.1f}"
        cells = [dtype, copy, f"{1e3 * float(found['gemm', dtype]['tflop_per_s']):.0f}"]
        lines.append([*cells, *(f"{at_peak[dtype, mode]:.0f}" if (dtype, mode) in at_peak else "" for mode in modes)])
    head = ["measured limits", "copy, GB/s", "PyTorch's matrix products, GFLOP/s"]
    known = [
        "The *peak* is the rate of the CPU's own multiply-add instructions on numbers in registers (for bfloat16, of "
        "those that multiply pairs). The *share of the peak* is the rate of our fastest model in the row, divided by "
        "the peak. This rate is the operations of the model's convolutions and matrix products over its whole time. "
        "Rows of `amp` are divided by the peak of bfloat16.",
        "",
    ]
    return [
        *table([*head, *(f"peak, {mode}, GFLOP/s" for mode in modes)], lines),
        "",
        *(known if modes else ()),
        "The *share of the roofline* is a least time divided by our time. The least time is what the bytes of a case "
        "take at the rate of copies, or its operations at the rate of PyTorch's matrix products, if that is longer.",
    ]


def _weight_gradient(rows: Rows) -> list[str]:
    lines = []
    for case in dict.fromkeys(row.case for row in rows):
        ms = {row.provider: milliseconds(row) for row in rows if row.case == case}
        side, _, c = case.split("-")[1].split("x")
        ours, theirs = ms[OURS], ms["pytorch"]
        lines.append([c, side, f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / ours:.1f}"])
    return table(["channels", "side", "ours, ms", "PyTorch, ms", "PyTorch ÷ ours"], lines)


def _memory(rows: Rows) -> list[str]:
    peak = {row.provider: row.peak_mib or 0.0 for row in rows}
    lines = [[OURS if name == OURS else "eager", f"{mib:.0f}"] for name, mib in peak.items()]
    return [
        "Resident memory at its peak, without parameters, gradients and input. "
        f"Eager PyTorch needs {peak['upstream'] / peak[OURS]:.1f} times as much.",
        "",
        *table(["code", "MiB"], lines),
    ]


def _growth(rows: Rows) -> list[str]:
    lines = []
    for part, title, doubled in (
        ("growth-batch", "images in the batch", "Twice as many images take"),
        ("growth-side", "side of the image, pixels", "An image with twice the side takes"),
    ):
        times = {}
        for row in of(rows, part):
            found = re.search(r"-(\d+)px-", row.case)
            assert found, row.case
            times[(row.batch or 1) if part == "growth-batch" else int(found[1])] = milliseconds(row)
        if len(times) > 1:
            lines += [f"Inference with atto. {doubled} {2 ** exponent(times):.1f} times as long:", ""]
            lines += [*table([title, "ms per batch"], ([str(n), f"{ms:.1f}"] for n, ms in times.items())), ""]
    threads = {row.mode: milliseconds(row) for row in of(rows, "growth-threads")}
    if threads:
        frozen = all(mode.startswith("frozen") for mode in threads)
        lines += [
            f"Inference with {'frozen ' * frozen}tiny, 8 images in the batch, by number of threads:",
            "",
            *table(["threads", "ms per batch"], ([n.split()[-2], f"{t:.0f}"] for n, t in threads.items())),
        ]
    return lines


def body(rows: Rows, limits: Mapping[str, float] | None = None) -> str:
    """The page without its title. `limits`: of :func:`.cpu_speed.peaks`, unless these rows have them."""
    limits = peaks(rows) or limits
    lines = [program.told(rows), ""]
    if of(rows, "ceilings"):
        lines += [*_ceilings(of(rows, "ceilings")), ""]
    for part, title in SPEED.items():
        if of(rows, part):
            mine = of(rows, part)
            told = f"Milliseconds per image. {TOLD.get(part, '')}{taken(mine)}"
            lines += [f"## {title}", "", told, "", *speed(mine, limits), ""]
    if of(rows, "servers"):
        told = "Batch 1. Every caller begins its next image when it has the last one."
        lines += ["## Several processes or threads", "", told, "", *served(of(rows, "servers")), ""]
    if of(rows, "ops"):
        lines += ["## Depthwise weight gradient, batch 8, float32", "", *_weight_gradient(of(rows, "ops")), ""]
    if of(rows, "memory"):
        lines += ["## Memory of a training step, tiny, batch 8", "", *_memory(of(rows, "memory")), ""]
    grown = [row for row in rows if row.part in GROWTH]
    if grown:
        lines += ["## How the time grows", "", *_growth(grown), ""]
    return "\n".join(lines)


def markdown(rows: Rows) -> str:
    """The whole report."""
    return f"# CPU report\n\n{body(rows)}"


def figure(rows: Rows) -> Figure | None:
    """Bars of images per second for inference and training in float32; None if there is no such row."""
    from matplotlib.figure import Figure

    chosen = list(groups([row for row in rows if row.dtype == "float32"]))
    if not chosen:
        return None
    drawn = Figure(figsize=(2.5 * len(chosen), 3.4))
    for i, group in enumerate(chosen):
        axis = drawn.add_subplot(1, len(chosen), i + 1)
        first = next(iter(group.values()))
        rates = [1e3 / per_image(row) for row in group.values()]
        colours = ["#2b6cb0" if name in MINE else "#cbd5e0" for name in group]
        bars = axis.bar(range(len(group)), rates, color=colours)
        axis.bar_label(bars, [f"{rate:.3g}" for rate in rates], fontsize=7)
        axis.set_xticks(range(len(group)), list(group), rotation=60, ha="right", fontsize=7)
        axis.set_title(f"{model(first)}, batch {first.batch}\n{first.part}", fontsize=9)
        axis.tick_params(axis="y", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        if i == 0:
            axis.set_ylabel("images per second", fontsize=8)
    drawn.suptitle(f"float32, 224 x 224, {rows[0].machine}. {taken(rows)}", fontsize=8)
    drawn.tight_layout()
    return drawn


PLOT = Plot("inference", ("inference", "training"), figure)
