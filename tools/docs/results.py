"""The generated parts of the pages that come from committed results, and the plots beside those results."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.reports import accelerate_report, cpu_pages, cpu_speed, fcmae_report, numerics_report, photos, tidy
from benchmarks.reports.naming import OURS, published
from benchmarks.reports.program import Plot, table
from benchmarks.reports.tidy import Row, newest

from . import front, h100
from .front import CPU, link, machine

PLOTS: tuple[Plot, ...] = (cpu_pages.PLOT, fcmae_report.PLOT, photos.PLOT, front.PLOT)


def _source(path: Path, command: str = "") -> str:
    return f"[{path.stem}]({link(path, '../')})" + (f", `{command}`." if command else ".")


def _drawn(plot: Plot, title: str) -> str:
    return f"![{title}]({link(plot.path(newest(plot.parts[0], CPU)[0]), '../')}){{ .wide }}"


def columns() -> str:
    """The columns of a result, as benchmarks/reports/tidy.py says."""
    found = re.search(r"^\| column .*?(?=\n\n)", tidy.__doc__ or "", re.DOTALL | re.MULTILINE)
    assert found, "benchmarks/reports/tidy.py has no table of columns"
    return found[0]


def cpu() -> str:
    """The CPU report, with a chart of its main rows. Parts that were measured in other runs are named with those."""
    runs: dict[tuple[Path, tidy.Origin, bool], list[Row]] = {}
    for part in cpu_pages.PARTS:
        try:
            path, rows = newest(part, CPU)
        except FileNotFoundError:  # a part that was not measured yet
            continue
        runs.setdefault((path, rows[0].origin, part == "ceilings"), []).extend(rows)  # limits stand first, alone
    lines = [front.home_chart(), ""]
    limits: dict[str, dict[str, float]] = {}
    for (_, origin, _), rows in runs.items():  # a machine's peak holds for its runs of other commits
        limits[origin.machine] = limits.get(origin.machine) or cpu_speed.peaks(rows)
    named: Path | None = None
    for (path, origin, _), rows in runs.items():
        body = cpu_pages.body(rows, limits[origin.machine]).strip()
        lines += [] if path == named else [_source(path, "make cpu-report"), ""]
        lines += [re.sub("^#", "##", body, flags=re.MULTILINE), ""]
        named = path
    return "\n".join(lines)


def accelerated() -> str:
    """A timm or transformers model, accelerated and as it is: milliseconds, and the ratios to the accelerated one."""
    path, rows = newest("accelerate", CPU)
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.ms:
            found.setdefault(row.case, {})[row.mode] = row.ms
    lines = []
    for case, ms in found.items():
        model, passes = case.split(f"-{accelerate_report.PIXELS}px-")
        fast = ms[accelerate_report.FAST]
        beside = (cell for mode in ("eager", "compile") for cell in (f"{ms[mode]:.0f}", f"{ms[mode] / fast:.2f}"))
        lines.append([*model.split("/"), "inference" if passes == "forward" else "training", f"{fast:.0f}", *beside])
    head = ["library", "model", "task", "accelerated, ms", "eager, ms", "eager ÷ accelerated"]
    head += ["torch.compile, ms", "torch.compile ÷ accelerated"]
    said = f"{machine(rows)}; batch 8, 224 x 224 pixels, float32. {_source(path, 'make accelerate-report')}"
    return "\n".join([said, "", *table(head, lines)])


def fcmae() -> str:
    """FCMAE's steps beside every form of masked dense convolution, and the plot by share removed."""
    path, rows = newest("fcmae", CPU)
    head = f"{machine(rows)}. {_source(path, 'make fcmae-report')} Forward and backward, ms:"
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
    return "\n".join([f"{machine(rows)}. {_source(path, 'make fcmae-report')}", "", *table(head, lines), "", plot])


def numerics() -> str:
    """Errors of the eight models."""
    path, rows = newest("numerics")
    head = f"{machine(rows)}, torch {rows[0].torch}: {numerics_report.summary(rows)} "
    return "\n".join([head + _source(path, "make numerics-report"), "", *numerics_report.errors_table(rows)])


def stale_plots() -> list[tuple[Plot, Path]]:
    """Plots that are not there, or were made of other rows than the newest result's, and that result."""
    return front.stale(PLOTS)


BLOCKS: dict[str, Callable[[], str]] = {
    "columns": columns,
    "cpu": cpu,
    "home-plot": front.home_plot,
    "readme-cpu": front.readme_cpu,
    "readme-gpu": lambda: front.models(""),
    "accelerate": accelerated,
    "fcmae": fcmae,
    "fcmae-cost": fcmae_cost,
    "h100-models": lambda: front.models("../"),
    "h100-steps": h100.steps,
    "h100-ops": h100.ops,
    "h100-depthwise": h100.depthwise,
    "numerics": numerics,
}
