"""The CPU report as a page and as a plot, made of its rows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from . import program
from .naming import OURS
from .program import Plot, Rows, table
from .tidy import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = {
    ("upstream", "eager"): "eager",
    ("upstream", "channels_last"): "channels_last",
    ("upstream", "compile"): "torch.compile",
    ("onnxruntime", ""): "ONNX Runtime",
    ("openvino", ""): "OpenVINO",
    ("masked-dense", "eager"): "masked dense",
    ("masked-dense", "compile"): "masked dense, torch.compile",
}
SPEED = {
    "inference": "Inference",
    "training": "Training step",
    "pretraining": "FCMAE step",
    "sizes": "All sizes, batch 1",
}
GROWTH = ("growth-batch", "growth-side", "growth-threads")
PARTS = ("ceilings", *SPEED, "ops", "memory", *GROWTH)


def label(row: Row) -> str:
    """Whose code, as a reader knows it."""
    return OURS if row.provider == OURS else LABELS[row.provider, row.mode]


def of(rows: Rows, part: str) -> list[Row]:
    """The rows of one part."""
    return [row for row in rows if row.part == part]


def groups(rows: Rows) -> Iterator[dict[str, Row]]:
    """The rows that were timed together, by label."""
    found: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in rows:
        found.setdefault((row.part, row.case, row.batch, row.dtype), {})[label(row)] = row
    yield from found.values()


def lead(group: Mapping[str, Row]) -> tuple[str, float] | None:
    """The fastest peer of a group, and how many times as long as ours it takes."""
    peers = {name: row.ms for name, row in group.items() if name != OURS and row.ms}
    if OURS not in group or not peers:
        return None
    fastest = min(peers, key=lambda name: peers[name])
    return fastest, peers[fastest] / _ms(group[OURS])


def exponent(times: Mapping[int, float]) -> float:
    """The slope of log time over log size, by least squares."""
    xs, ys = [math.log(k) for k in times], [math.log(v) for v in times.values()]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)) / sum((x - mx) ** 2 for x in xs)


def model(row: Row) -> str:
    """The size: atto of convnextv2_atto-224px-forward."""
    return re.split(r"[_-]", row.case)[1]


def _ms(row: Row) -> float:
    assert row.ms is not None, row.key
    return row.ms


def _per_image(row: Row) -> float:
    return _ms(row) / (row.batch or 1)


def _speed(rows: Rows) -> list[str]:
    names = list(dict.fromkeys(label(row) for row in rows))
    rivals = [name for name in names if name != OURS]
    alone = len(rivals) == 1  # then it is no race
    lines = []
    for group in groups(rows):
        first = next(iter(group.values()))
        cells = [model(first), str(first.batch), first.dtype]
        cells += [f"{_per_image(group[name]):.2f}" if name in group else "" for name in names]
        found = lead(group)
        cells += ["" if found is None else found[0]] * (not alone)
        cells.append("" if found is None else f"{found[1]:.2f}")
        share = group[OURS].notes.get("roofline_share") if OURS in group else None
        lines.append([*cells, f"{100 * float(share):.0f} %" if share else ""])
    titles = ["ours" if name == OURS else name for name in names]
    ratio = [f"{rivals[0]} ÷ ours"] if alone else ["fastest rival", "rival ÷ ours"]
    return table(["model", "batch", "dtype", *titles, *ratio, "roofline"], lines)


def _ceilings(rows: Rows) -> list[str]:
    """Measured limits, a line a dtype."""
    found = {(row.case, row.dtype): row.notes for row in rows}
    lines = []
    for dtype in dict.fromkeys(row.dtype for row in rows):
        copy = f"{float(found['copy', dtype]['gb_per_s']):.1f}"
        lines.append([dtype, copy, f"{1e3 * float(found['gemm', dtype]['tflop_per_s']):.0f}"])
    return [
        *table(["measured limits", "copy, GB/s", "PyTorch's matrix products, GFLOP/s"], lines),
        "",
        "The column *roofline* in the tables below is the least time that a case's bytes and operations need at these "
        "limits, divided by its measured time. It passes 100 % where our matrix products are faster than PyTorch's.",
    ]


def _weight_gradient(rows: Rows) -> list[str]:
    lines = []
    for case in dict.fromkeys(row.case for row in rows):
        ms = {row.provider: _ms(row) for row in rows if row.case == case}
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
            times[(row.batch or 1) if part == "growth-batch" else int(found[1])] = _ms(row)
        if len(times) > 1:
            lines += [f"Inference with atto. {doubled} {2 ** exponent(times):.1f} times as long:", ""]
            lines += [*table([title, "ms per batch"], ([str(n), f"{ms:.1f}"] for n, ms in times.items())), ""]
    threads = {row.mode: _ms(row) for row in of(rows, "growth-threads")}
    if threads:
        lines += [
            "Inference with tiny, 8 images in the batch, by number of threads:",
            "",
            *table(["threads", "ms per batch"], ([n.split()[0], f"{t:.0f}"] for n, t in threads.items())),
        ]
    return lines


def body(rows: Rows) -> str:
    """The page without its title."""
    lines = [program.told(rows), ""]
    if of(rows, "ceilings"):
        lines += [*_ceilings(of(rows, "ceilings")), ""]
    for part, title in SPEED.items():
        if of(rows, part):
            lines += [f"## {title}", "", "Milliseconds per image, medians.", "", *_speed(of(rows, part)), ""]
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
        rates = [1e3 / _per_image(row) for row in group.values()]
        colours = ["#2b6cb0" if name == OURS else "#cbd5e0" for name in group]
        bars = axis.bar(range(len(group)), rates, color=colours)
        axis.bar_label(bars, [f"{rate:.3g}" for rate in rates], fontsize=7)
        axis.set_xticks(range(len(group)), list(group), rotation=60, ha="right", fontsize=7)
        axis.set_title(f"{model(first)}, batch {first.batch}\n{first.part}", fontsize=9)
        axis.tick_params(axis="y", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        if i == 0:
            axis.set_ylabel("images per second", fontsize=8)
    drawn.suptitle(f"float32, 224 x 224, {rows[0].machine}; medians of interleaved rounds", fontsize=8)
    drawn.tight_layout()
    return drawn


PLOT = Plot("inference", ("inference", "training"), figure)
