"""What README and the home page show of committed results: two short tables and a chart that a phone can show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.reports import cpu_speed, tidy
from benchmarks.reports.cpu_speed import FROZEN, MINE
from benchmarks.reports.naming import OURS
from benchmarks.reports.program import Plot, Rows, table
from benchmarks.reports.tidy import Row, newest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CPU, H100 = " threads", "H100"  # what the names of such machines contain
# Rows of a run whose steps another process of the same day measured too: compare within a process only.
ANOTHER = ", another process"
TASKS = {"inference": "inference", "training": "training step", "pretraining": "FCMAE step"}
_EAGER = ("eager", "masked dense")  # labels of PyTorch without a compiler: a dense model, an FCMAE model
_OURS_COLOUR, _RIVAL_COLOUR = "#2b6cb0", "#a0aec0"


def machine(rows: Sequence[Row]) -> str:
    """The machine of a CPU result in words: "AMD EPYC (avx2), 2 threads"."""
    parts = rows[0].machine.split(", ")
    return f"{parts[0].replace('(R)', '')} ({parts[1]}), {', '.join(parts[2:])}" if len(parts) > 2 else rows[0].machine


def link(path: Path, top: str) -> str:
    """Where a page finds a result; `top` leads from the page to the root of the repository."""
    return f"{top}benchmarks/results/{path.name}"


def shown(ms: float) -> str:
    """Three digits: 8.00, 0.942, 53.5, 121."""
    return f"{ms:#.3g}".removesuffix(".")


def readme_cpu() -> str:
    """Our time beside eager PyTorch's and the fastest rival's, one case a line; a table for each result."""
    runs: dict[Path, list[Row]] = {}
    for part in TASKS:
        path, rows = newest(part, CPU)
        runs.setdefault(path, []).extend(row for row in rows if cpu_speed.STD1 not in row.case)
    text = [
        "* Times are milliseconds per image of 224 x 224 pixels; lower is better.",
        "* *Eager PyTorch* is upstream's model, run without a compiler. In an FCMAE step its sparse convolutions are "
        "ordinary ones over the whole image, with the hidden patches set to zero.",
        "* The *fastest rival* is the fastest of those measured: eager PyTorch and torch.compile, in training PyTorch "
        "in channels_last order, in inference ONNX Runtime and OpenVINO.",
        "* *Rival ÷ ours* is the fastest rival's time divided by ours: 1.25 means that ours is 1.25 times as fast.",
    ]
    for path, rows in runs.items():
        text += [
            "",
            f"{machine(rows)}; torch {rows[0].torch}. {cpu_speed.taken(rows)} ([CSV file]({link(path, '')}))",
            "",
            *_speed(rows),
        ]
    text += ["", "`make cpu-report` measures all of it again. " + _memory()]
    return "\n".join(text)


def _speed(rows: Sequence[Row]) -> list[str]:
    """The table of a result's cases."""
    lines = []
    frozen = any(cpu_speed.label(row) == FROZEN for row in rows)
    for group in cpu_speed.groups(rows):
        ours, found = group.get(OURS), cpu_speed.lead(group)
        eager = next((group[name] for name in _EAGER if name in group), None)
        if ours and found and eager and ours.ms and eager.ms and ours.batch:
            rival, ratio = found
            mine, plain, theirs = (f"{ms / ours.batch:.1f}" for ms in (ours.ms, eager.ms, ratio * ours.ms))
            cells = [TASKS[ours.part], cpu_speed.model(ours), str(ours.batch), ours.dtype, mine]
            ratios = [f"{ratio:.2f}"]
            if frozen:
                cells.append(f"{cpu_speed.per_image(group[FROZEN]):.1f}" if FROZEN in group else "")
                served = cpu_speed.lead(group, FROZEN)
                ratios.append(f"{served[1]:.2f}" if served else "")
            lines.append([*cells, plain, rival.removeprefix("masked dense, "), theirs, *ratios])
    head = ["task", "model", "batch", "dtype", "ours, ms", *(["ours, frozen, ms"] * frozen), "eager PyTorch, ms"]
    head += ["fastest rival", "rival, ms", "rival ÷ ours", *(["rival ÷ frozen"] * frozen)]
    return table(head, lines)


def _memory() -> str:
    """What a training step needs, in a sentence."""
    _, rows = newest("memory", CPU)
    peak = {row.provider: row.peak_mib for row in rows}
    return (
        f"Beyond parameters, gradients and input, a training step of tiny at batch 8 needs {peak[OURS]:.0f} MiB at its "
        f"peak, and eager PyTorch {peak['upstream']:.0f} MiB ({machine(rows)})."
    )


def _plain(row: Row, rows: Sequence[Row]) -> Row | None:
    """The row of eager PyTorch (masked dense, in FCMAE) that the same process timed on the same case."""
    run = ANOTHER if row.mode.endswith(ANOTHER) else ""
    modes = ("eager" + run, "graph" + run)
    for other in rows:
        same = (other.case, other.batch, other.dtype) == (row.case, row.batch, row.dtype)
        if same and other.provider in ("upstream", "masked-dense") and other.mode in modes:
            return other
    return None


def models(top: str) -> str:
    """Whole models on an H100 beside eager PyTorch, with the ratio."""
    path, _ = newest("inference", H100)
    lines = []
    for part, task in TASKS.items():
        rows = newest(part, H100)[1]
        for row in rows:
            if row.provider != OURS or row.mode.removesuffix(ANOTHER) not in ("cuda", "cuda graph") or not row.ms:
                continue
            plain = _plain(row, rows)
            if plain is None or not plain.ms:
                continue
            dtype = "autocast" if row.dtype == "amp" else row.dtype
            run = "B" if row.mode.endswith(ANOTHER) else "A"
            case = [task, str(row.batch), dtype, run]
            lines.append([*case, shown(row.ms), shown(plain.ms), f"{plain.ms / row.ms:.2f}"])
    head = ["task", "batch", "dtype", "run", "ours, ms", "eager PyTorch, ms", "eager ÷ ours"]
    return "\n".join([*table(head, lines), "", f"All numbers: [{path.stem}]({link(path, top)})."])


def _panel(group: dict[str, Row]) -> tuple[list[str], list[float]]:
    """Labels and images per second, the slowest first: it is drawn lowest."""
    rates = {name: 1e3 * (row.batch or 1) / row.ms for name, row in group.items() if row.ms}
    names = sorted(rates, key=lambda name: rates[name])
    return names, [rates[name] for name in names]


def figure(rows: Rows) -> Figure | None:
    """Bars of images per second of tiny in float32, inference over training, for a screen 360 pixels wide."""
    from matplotlib.figure import Figure

    titles = {"inference": "Inference", "training": "Training step"}
    chosen = [
        (titles[ours.part], ours, group)
        for group in cpu_speed.groups([row for row in rows if row.dtype == "float32" and "_tiny-" in row.case])
        if (ours := group.get(OURS)) is not None and len(group) > 1
    ]
    if not chosen:
        return None
    bars = [len(group) for _, _, group in chosen]
    drawn = Figure(figsize=(4.6, 0.9 + 0.55 * len(chosen) + 0.27 * sum(bars)))
    axes = drawn.subplots(len(chosen), 1, squeeze=False, height_ratios=bars)[:, 0]
    for axis, (title, ours, group) in zip(axes, chosen, strict=True):
        names, rates = _panel(group)
        drawn_bars = axis.barh(names, rates, color=[_OURS_COLOUR if name in MINE else _RIVAL_COLOUR for name in names])
        axis.bar_label(drawn_bars, [f"{rate:.1f}" for rate in rates], padding=3, fontsize=11)
        axis.set_title(f"{title}, batch {ours.batch}", fontsize=12, loc="left")
        axis.tick_params(axis="y", labelsize=11, length=0)
        axis.set_xticks([])
        axis.set_xlim(0, 1.15 * max(rates))
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    drawn.suptitle("ConvNeXt V2-tiny, images per second", fontsize=13, x=0.02, ha="left")
    drawn.tight_layout()
    return drawn


PLOT = Plot("home", ("inference", "training"), figure)


def home_chart() -> str:
    """The chart alone."""
    path, _ = newest("inference", CPU)
    return f"![Images per second of ConvNeXt V2-tiny on a CPU]({link(PLOT.path(path), '../')}){{ width=460 }}"


def home_plot() -> str:
    """The chart, with its conditions in words above it."""
    _, rows = newest("inference", CPU)
    return "\n".join(
        [
            f"Images per second, higher is better: float32, 224 x 224 pixels, {machine(rows)}, torch {rows[0].torch}. "
            "[Tables and conditions](performance.md#on-a-cpu).",
            "",
            home_chart(),
        ]
    )


def stale(plots: Sequence[Plot]) -> list[tuple[Plot, Path]]:
    """Plots that are not there, or were made of other rows than the newest result's, and that result."""
    found = []
    for plot in plots:
        try:
            path, _ = newest(plot.parts[0], CPU)
        except FileNotFoundError:  # nothing to draw yet
            continue
        if not plot.current(path, tidy.read(path)):
            found.append((plot, path))
    return found
