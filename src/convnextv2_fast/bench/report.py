"""The table of `bench`, and the lines below it."""

from __future__ import annotations

from collections.abc import Sequence

from .rows import Row
from .tables import print_table

BASELINES = ("timm (eager)", "transformers (eager)", "fast (torch)")  # the first that was measured is what 1.00x is
NOISY = 0.3  # of the median, between the 20th and the 80th percentile


def report(title: str, rows: Sequence[Row], batch: int, on_gpu: bool, taken: str) -> None:
    """The table, and below it how the times were taken, which backends ran each op, and which rows were not measured,
    and why."""
    timed = {row.label: row.timing.percentiles()["ms"] for row in rows if row.timed}
    against = next((label for label in BASELINES if label in timed), None)
    base = timed[against] if against else None
    headers = ["", "ms", "p20", "p80", "images/s", "speed-up", *(["extra MiB"] if on_gpu else []), "difference"]
    lines = []
    for row in rows:
        if row.timed:
            times = row.timing.percentiles()
            middle = times["ms"]
            cells = [f"{value:.2f}" for value in times.values()]
            cells += [f"{batch * 1e3 / middle:.1f}", f"{base / middle:.2f}x" if base else "-"]
            if on_gpu:
                cells.append("-" if row.extra_memory is None else f"{row.extra_memory / 2**20:.0f}")
            lines.append([row.label, *cells, "-" if row.difference is None else f"{row.difference:.0e}"])
    if lines:
        print(title)
        print_table(headers, lines)
        print(f"{taken}; difference: from the torch backend")
        if against is not None:
            hint = "" if against in BASELINES[:-1] else "; --peer timm adds timm's model and compares with that"
            print(f"speed-up: against {against}{hint}")
        noisy = [row.label for row in rows if row.timed and row.timing.spread > NOISY]
        if noisy:
            print(f"noisy, the times of a row spread over more than {NOISY:.0%}: {', '.join(noisy)}")
    for row in rows:
        if row.error is not None:
            print(f"{row.label}: not measured: {row.error}")
        elif row.ops:
            ran = (f"{op} on {' and '.join(names)}" for op, names in row.ops.items())
            print(f"{row.label}: {', '.join(ran)}")
