"""The generated parts of the pages that come from committed results, and the plots beside those results."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks import accelerate_report, cpu_pages, fcmae_report, numerics_report, photos, tidy
from benchmarks._run import Plot, table
from benchmarks.naming import OURS, published
from benchmarks.tidy import Row, newest

CPU, H100 = " threads", "H100"  # what the names of such machines contain
PLOTS: tuple[Plot, ...] = (cpu_pages.PLOT, fcmae_report.PLOT, photos.PLOT)
# Rows of a run whose steps another process of the same day measured too: compare within a process only.
ANOTHER = ", another process"


def _link(path: Path, top: str = "../") -> str:
    return f"{top}benchmarks/results/{path.name}"


def _source(path: Path, command: str = "") -> str:
    return f"[{path.stem}]({_link(path)})" + (f", `{command}`." if command else ".")


def _machine(rows: Sequence[Row]) -> str:
    return rows[0].machine


def _drawn(plot: Plot, title: str, top: str = "../") -> str:
    return f"![{title}]({_link(plot.path(newest(plot.parts[0], CPU)[0]), top)})"


def columns() -> str:
    """The columns of a result, as benchmarks/tidy.py says."""
    found = re.search(r"^\| column .*?(?=\n\n)", tidy.__doc__ or "", re.DOTALL | re.MULTILINE)
    assert found, "benchmarks/tidy.py has no table of columns"
    return found[0]


def cpu_plot(top: str = "../") -> str:
    """Images per second."""
    return _drawn(cpu_pages.PLOT, "Images per second on a CPU, float32", top)


def cpu() -> str:
    """The CPU report, with its plot. Parts that were measured in other runs are named with those."""
    runs: dict[tuple[Path, tidy.Origin], list[Row]] = {}
    for part in cpu_pages.PARTS:
        path, rows = newest(part, CPU)
        runs.setdefault((path, rows[0].origin), []).extend(rows)
    lines = [cpu_plot(), ""]
    for (path, _), rows in runs.items():
        body = cpu_pages.body(rows).strip()
        lines += [_source(path, "make cpu-report"), "", re.sub("^#", "##", body, flags=re.MULTILINE), ""]
    return "\n".join(lines)


def readme_cpu() -> str:
    """The CPU report in short: ours beside the fastest peer of every case."""
    path, first = newest("inference", CPU)
    titles = {"inference": "inference", "training": "training step", "pretraining": "FCMAE step"}
    lines = []
    for part, title in titles.items():
        for group in cpu_pages.groups(newest(part, CPU)[1]):
            ours, found = group[OURS], cpu_pages.lead(group)
            if found and ours.ms and ours.batch:
                peer, ratio = found
                cells = [title, cpu_pages.model(ours), str(ours.batch), ours.dtype, f"{ours.ms / ours.batch:.1f}"]
                lines.append([*cells, peer, f"{ratio:.2f}x"])
    sizes = [found[1] for group in cpu_pages.groups(newest("sizes", CPU)[1]) if (found := cpu_pages.lead(group))]
    peak = {row.provider: row.peak_mib for row in newest("memory", CPU)[1]}
    text = [
        cpu_plot(""),
        "",
        f"{_machine(first)}; 224 px, medians of interleaved rounds; peers: eager, channels_last, torch.compile, for "
        "inference ONNX Runtime and OpenVINO too.",
        "",
        *table(["", "model", "batch", "dtype", "ms per image", "fastest peer", "its time over ours"], lines),
        "",
        f"At batch 1 eager takes {min(sizes):.1f} to {max(sizes):.1f} times as long as ours over all {len(sizes)} "
        f"sizes. A training step of tiny (batch 8) keeps {peak[OURS]:.0f} MiB, in eager mode {peak['upstream']:.0f} "
        f"MiB. `make cpu-report`: [all numbers]({_link(path, '')}).",
    ]
    return "\n".join(text)


def accelerated() -> str:
    """How many times as long a timm or transformers model takes without `accelerate`."""
    path, rows = newest("accelerate", CPU)
    head = f"{_machine(rows)}; batch 8, 224 px, float32. {_source(path, 'make accelerate-report')}"
    return "\n".join([head, "", *accelerate_report.times(rows)])


def fcmae() -> str:
    """FCMAE's steps beside every form of masked dense convolution, and the plot by share removed."""
    path, rows = newest("fcmae", CPU)
    head = f"{_machine(rows)}. {_source(path, 'make fcmae-report')} Forward and backward, ms:"
    plot = _drawn(fcmae_report.PLOT, "Time against the share of patches removed")
    return "\n".join([head, "", *fcmae_report.times(rows), "", plot])


def fcmae_cost() -> str:
    """The same in short: masked dense in its fastest memory order, channels_last."""
    path, rows = newest("fcmae", CPU)
    lines = []
    for (size, part), ms in fcmae_report.steps(rows).items():
        ours = ms[OURS, "eager"]
        forms = (ms[published(f"masked-dense{form}-channels_last")] for form in ("-compile", ""))
        beside = (cell for t in forms for cell in (f"{t:.0f}", f"{t / ours:.1f}x"))
        lines.append([size, "encoder" if part == "encoder" else "whole step", f"{ours:.0f}", *beside])
    head = ["model", "", "ours, ms", "torch.compile, ms", "torch.compile over ours", "eager, ms", "eager over ours"]
    plot = _drawn(fcmae_report.PLOT, "Time against the share of patches removed")
    return "\n".join([f"{_machine(rows)}. {_source(path, 'make fcmae-report')}", "", *table(head, lines), "", plot])


def _plain(mode: str) -> str:
    """A mode without how it was launched: "cuda graph" is "cuda"."""
    mode = mode.removesuffix(ANOTHER)
    return "eager" if mode == "graph" else mode.removesuffix(" graph")


def _beside(rows: Iterable[Row], names: Mapping[tuple[str, str], str]) -> str:
    """Milliseconds by case, a column for each provider; what was not measured is empty."""
    found: dict[tuple[str, str, str], dict[tuple[str, str], float]] = {}
    for row in rows:
        key = (row.provider, _plain(row.mode))
        if key in names and row.ms:
            found.setdefault((f"`{row.case}`", str(row.batch), row.dtype), {})[key] = row.ms
    used = [key for key in names if any(key in ms for ms in found.values())]
    lines = ([*case, *(f"{ms[key]:.3g}" if key in ms else "" for key in used)] for case, ms in found.items())
    return "\n".join(table(["ms", "batch", "dtype", *(names[key] for key in used)], lines))


_ALONE = "dwconv7x7-"  # how cases of the depthwise convolution alone begin
_BACKENDS = {
    (OURS, "cuda"): "`cuda`",
    (OURS, "triton"): "`triton`",
    (OURS, "torch"): "`torch`, the reference",
    ("upstream", "eager"): "eager, NCHW",
}
_DEPTHWISE = {
    (OURS, "cuda-mma"): "`cuda`, mma",
    (OURS, "cuda-fma"): "`cuda`, fma",
    (OURS, "triton"): "`triton`",
    ("pytorch", "cudnn"): "cuDNN",
    ("pytorch", "aten"): "ATen",
}


def _steps() -> list[Row]:
    return [row for part in ("training", "pretraining") for row in newest(part, H100)[1]]


def h100_models() -> str:
    """Whole models on an H100."""
    path, rows = newest("inference", H100)
    steps = [row for row in _steps() if not row.mode.endswith(ANOTHER)]
    return f"{_source(path)}\n\n{_beside([*rows, *steps], _BACKENDS)}"


def h100_ops() -> str:
    """Ops, blocks and training steps on an H100, of one process."""
    path, rows = newest("ops", H100)
    steps = [row for row in _steps() if row.mode.endswith(ANOTHER)]
    ops = [row for row in rows if not row.case.startswith(_ALONE)]
    names = {**_BACKENDS, ("masked-dense", "eager"): "masked dense"}
    return f"{_source(path)}\n\n{_beside([*steps, *ops], names)}"


def h100_depthwise() -> str:
    """The depthwise convolution alone beside cuDNN and ATen, on an H100."""
    path, rows = newest("ops", H100, _ALONE)
    return f"{_source(path)}\n\n{_beside(rows, _DEPTHWISE)}"


def numerics() -> str:
    """Errors of the eight models."""
    path, rows = newest("numerics")
    head = f"{_machine(rows)}, torch {rows[0].torch}: {numerics_report.summary(rows)} "
    return "\n".join([head + _source(path, "make numerics-report"), "", *numerics_report.errors_table(rows)])


def stale_plots() -> list[tuple[Plot, Path]]:
    """Plots that are not there, or were made of other rows than the newest result's, and that result."""
    found = []
    for plot in PLOTS:
        try:
            path, _ = newest(plot.parts[0], CPU)
        except FileNotFoundError:  # nothing to draw yet
            continue
        if not plot.current(path, tidy.read(path)):
            found.append((plot, path))
    return found


BLOCKS: dict[str, Callable[[], str]] = {
    "columns": columns,
    "cpu": cpu,
    "cpu-plot": cpu_plot,
    "readme-cpu": readme_cpu,
    "accelerate": accelerated,
    "fcmae": fcmae,
    "fcmae-cost": fcmae_cost,
    "h100-ops": h100_ops,
    "h100-models": h100_models,
    "h100-depthwise": h100_depthwise,
    "numerics": numerics,
}
