"""Loss curves from a run's `steps.jsonl`, or from any `log.txt` of upstream's form."""

from __future__ import annotations

from pathlib import Path

from ..errors import TrainingError
from .libraries import need
from .lines import read_lines
from .pictures import save_figure

SMOOTHED = 0.05  # share of a curve that its running mean spans


def read(path: Path) -> tuple[str, list[float], list[float]]:
    """What the places are ("step" or "epoch"), the places, the losses. A folder stands for the log in it.

    Raises:
        TrainingError: nothing of a loss there.
    """
    if path.is_dir():
        path = next((path / name for name in ("steps.jsonl", "log.txt") if (path / name).is_file()), path / "log.txt")
    records = read_lines(path)
    for unit, key in (("step", "loss"), ("epoch", "train_loss")):
        pairs = [(r.get(unit), r.get(key)) for r in records]
        found = [(at, loss) for at, loss in pairs if isinstance(at, int | float) and isinstance(loss, int | float)]
        if found:
            places, losses = zip(*found, strict=True)
            return unit, list(places), list(losses)
    raise TrainingError(f"{path}: no line has a loss")


def running_mean(values: list[float]) -> list[float]:
    """Over the last :data:`SMOOTHED` of the curve."""
    width = max(1, round(SMOOTHED * len(values)))
    return [sum(part) / len(part) for i in range(len(values)) for part in [values[max(0, i + 1 - width) : i + 1]]]


def draw(paths: list[Path], out: Path, log_scale: bool) -> None:
    """One curve for each log.

    Raises:
        TrainingError: a log cannot be read, they have different units, or `out` cannot be written.
    """
    need("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = [(path.name or str(path), *read(path)) for path in paths]
    units = {unit for _, unit, _, _ in curves}
    if len(units) > 1:
        raise TrainingError("some logs count steps, some epochs: give the same file of each run")
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, _, places, losses) in enumerate(curves):
        axes.plot(places, losses, color=f"C{i}", alpha=0.35, linewidth=0.8)
        axes.plot(places, running_mean(losses), color=f"C{i}", label=name)
    axes.set_xlabel(units.pop())
    axes.set_ylabel("loss")
    if log_scale:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save_figure(FigureCanvasAgg(figure), out)
