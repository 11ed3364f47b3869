"""The bar chart of `bench --plot`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .rows import Row


def draw(path: Path, title: str, rows: Sequence[Row]) -> None:
    """One horizontal bar per row that has times: the median from zero, with a whisker from the 20th to the 80th
    percentile. What runs on this library is blue, all else grey. ImportError without matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in rows if row.timed]
    figure = Figure(figsize=(8, 1.5 + 0.5 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    times = [row.timing.percentiles() for row in rows]
    low, middle, high = ([each[name] for each in times] for name in ("p20", "ms", "p80"))
    places = list(range(len(rows)))
    colors = ["#1f77b4" if row.ops or row.label.endswith("(accelerated)") else "#b0b0b0" for row in rows]
    below = [m - end for m, end in zip(middle, low, strict=True)]
    above = [end - m for m, end in zip(middle, high, strict=True)]
    axes.barh(places, middle, xerr=[below, above], color=colors, ecolor="#333333", capsize=3)
    for place, m, h in zip(places, middle, high, strict=True):
        axes.annotate(f"{m:.3g}", (h, place), xytext=(6, 0), textcoords="offset points", va="center")
    axes.set_yticks(places, [row.label for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, max(high) * 1.12)
    axes.set_xlabel("milliseconds per call, less is better (median; whisker: 20th to 80th percentile)")
    figure.suptitle(title, x=0.01, ha="left", fontsize="medium", wrap=True)
    axes.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure).print_figure(path, dpi=150, format=path.suffix.removeprefix(".") or "png")
