"""`make bench`: parity and speed on real photographs, in a few minutes on a laptop.

Four photographs (scikit-image's astronaut, coffee, chelsea, rocket) go through convnextv2_tiny with seeded random
weights and GRN parameters that are not zero. First every backend's logits are compared with the float64 reference; a
backend that is wrong gets no time. Then inference and one training step are timed beside plain PyTorch, medians of
interleaved rounds. The weights are random, so no class names are shown: they would mean nothing.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from . import _machine, _run, providers
from ._check import difference, tolerance
from ._run import Plot, Rows, Run
from .cases import Setting
from .measure import Effort, Outcome, measure
from .module_cases import ModelCase
from .naming import OURS, published
from .peers import Unavailable, need
from .tidy import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("astronaut", "coffee", "chelsea", "rocket")
PEERS = ("eager", "channels_last", "compile")
MINIMUM, TRAINING = 45.0, 3.0  # seconds to compile inference, at first guess; a training step takes so many times that
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


def photographs(resolution: int) -> Tensor:
    """The four photographs, shorter side resized, centre cropped, ImageNet-normalised: `[4, 3, r, r]` float32."""
    need("skimage")
    from skimage import data, transform

    found = []
    for name in NAMES:
        image = np.asarray(getattr(data, name)(), dtype=np.float64)[..., :3] / 255
        scale = resolution / min(image.shape[:2])
        size = tuple(max(resolution, round(side * scale)) for side in image.shape[:2])
        image = transform.resize(image, size, anti_aliasing=True)
        top, left = ((side - resolution) // 2 for side in size)
        image = (image[top : top + resolution, left : left + resolution] - MEAN) / STD
        found.append(torch.from_numpy(image).permute(2, 0, 1).float())
    return torch.stack(found).contiguous()


class PhotoCase(ModelCase):
    """A model on the photographs; a batch of 1 takes them in turn."""

    def __init__(self, images: Tensor, batch: int, setting: Setting, backward: bool, size: str) -> None:
        super().__init__(size, batch, setting, backward, resolution=images.shape[-1])
        self.sets = len(images) // batch
        self.checked = 1 if backward else batch  # a float64 backward takes its time
        self._photos = images

    @functools.cached_property
    def inputs(self) -> list[Tensor]:
        return [part.to(self.placement) for part in self._photos.split(self.images)[: self.sets]]


def parity(case: PhotoCase) -> list[dict[str, Any]]:
    """Every backend's logits on all photographs beside the float64 reference."""
    rows = []
    for backend in providers.backends():
        row: dict[str, Any] = {"backend": backend, "limit": tolerance(case.setting.working_dtype, True)}
        try:
            candidate = providers.build(f"fast-{backend}", case)
            found = difference(candidate.outputs(), candidate.expected())
            row |= {"max_absolute_error": found.max_absolute, "max_relative_error": found.max_relative}
            row["status"] = "ok" if found.max_relative <= row["limit"] else "WRONG"
        except Unavailable as reason:
            row |= {"status": "skipped", "reason": str(reason)}
        rows.append(row)
    return rows


def table(title: str, head: list[str], rows: list[list[str]]) -> None:
    """Prints with rich where it is installed, else as aligned text."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        print(f"\n{title}")
        for row in [head, ["-" * width for width in widths], *rows]:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    shown = Table(title=title, title_justify="left")
    for i, name in enumerate(head):
        shown.add_column(name, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    console = Console()
    Console(width=max(console.width, 110)).print(shown)


def parity_table(rows: list[dict[str, Any]]) -> None:
    cells = []
    for row in rows:
        if row["status"] == "skipped":
            cells.append([row["backend"], "-", "-", "-", f"skipped: {row['reason']}"])
            continue
        errors = [f"{row[key]:.2e}" for key in ("max_absolute_error", "max_relative_error", "limit")]
        cells.append([row["backend"], *errors, row["status"]])
    table(
        f"Parity: logits of {len(NAMES)} photographs against the float64 reference",
        ["backend", "max abs error", "max rel error", "limit", "status"],
        cells,
    )


def add_rows(run: Run, case: ModelCase, outcomes: dict[str, Outcome]) -> None:
    """What was timed of one group."""
    for name, outcome in outcomes.items():
        if outcome.timing is not None:
            provider, mode = published(name)
            placed = {"batch": case.batch, "dtype": case.setting.precision}
            figures = {"rel_error": outcome.info["max_relative_error"], **_run.timed(outcome.timing, provider)}
            run.add("photos", case.what, provider, mode=mode, **placed, **figures)


def speed_table(case: ModelCase, outcomes: dict[str, Outcome]) -> None:
    """Prints one group."""
    base = outcomes["eager"].timing.median if outcomes["eager"].timing else None
    cells = []
    for name, outcome in outcomes.items():
        if outcome.timing is None:
            cells.append([name, "-", "-", "-", "-", "-", f"{outcome.status}: {outcome.reason}"])
            continue
        times = outcome.timing.milliseconds()
        speedup = f"{base / outcome.timing.median:.2f}x" if base else "-"
        spread = [f"{times[key]:.1f}" for key in ("ms", "ms_p20", "ms_p80")]
        rate = f"{outcome.info['images_per_s']:.2f}"
        cells.append([name, *spread, rate, speedup, f"{times['rounds']} rounds"])
    what = "training step (forward, loss, backward)" if case.backward else "inference"
    head = ["provider", "ms, median", "20 %", "80 %", "img/s", "vs eager", ""]
    table(f"convnextv2_{case.size}, {what}, batch {case.images}, {case.setting.precision}", head, cells)


def form(row: Row) -> str:
    """Provider and mode in one word or two."""
    return f"{row.provider}, {row.mode}" if row.mode else row.provider


def markdown(rows: Rows) -> str:
    """The page."""
    lines = []
    for row in rows:
        spread = (f"{row.ms:.1f}", f"{row.p20:.1f}", f"{row.p80:.1f}")
        lines.append([row.case, str(row.batch), form(row), *spread, f"{row.rel_error:.1e}"])
    head = ["case", "batch", "provider", "ms, median", "20 %", "80 %", "rel. error"]
    return "\n".join(["# Photographs", "", f"{_run.told(rows)} `make bench`.", "", *_run.table(head, lines), ""])


def figure(rows: Rows) -> Figure:
    """A panel of bars for each case and batch."""
    from matplotlib.figure import Figure

    groups = sorted({(row.case, row.batch) for row in rows})
    drawn = Figure(figsize=(4.2 * len(groups), 3.4))
    for i, group in enumerate(groups):
        axis = drawn.add_subplot(1, len(groups), i + 1)
        mine = [row for row in rows if (row.case, row.batch) == group]
        colours = ["#2b6cb0" if row.provider == OURS else "#cbd5e0" for row in mine]
        axis.barh([form(row) for row in mine], [row.ms or 0.0 for row in mine], color=colours)
        axis.invert_yaxis()
        axis.set_xlabel("ms (median, less is better)")
        axis.set_title(f"{group[0]}, batch {group[1]}", fontsize=7)
    drawn.suptitle(f"{rows[0].machine}, torch {rows[0].torch}", fontsize=8)
    drawn.tight_layout()
    return drawn


PLOT = Plot("photos", ("photos",), figure)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 if any backend is wrong."""
    parser = _run.options("photos", (__doc__ or "").splitlines()[0])
    parser.prog = "make bench"
    parser.add_argument("--size", default="tiny", help="atto .. huge (default tiny)")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=15.0, help="no new round of a group after this")
    parser.add_argument("--budget", type=float, default=240.0, help="seconds in all, as near as can be (default 240)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out: it takes most of the time")
    options = parser.parse_args(arguments)
    card = _machine.gpu()
    run = _run.begin(parser, options, gpu_named=str(card["name"]) if card else "")
    began = time.monotonic()
    setting = Setting("cuda" if card else "cpu", "float32")
    machine = _machine.describe()
    print(f"{machine['cpu']}, {machine['threads']} threads, {machine['torch_isa']}; torch {machine['torch']}")
    print(f"device {setting.device}; CPU library: {machine['cpu_library']}; CUDA library: {machine['cuda_library']}")
    images = photographs(options.resolution)

    wanted_cases = ((4, False), (1, False), (4, True))
    cases = [PhotoCase(images, batch, setting, backward, options.size) for batch, backward in wanted_cases]
    checked = parity(cases[0])
    parity_table(checked)
    wrong = any(row["status"] == "WRONG" for row in checked)
    wanted = [*(f"fast-{name}" for name in providers.backends()), *PEERS]
    effort = Effort(rounds=options.rounds, warmup=1, round_seconds=0.0, max_seconds=options.seconds)
    why = "--no-compile" if options.no_compile else ""  # torch.compile is left out
    compiling = MINIMUM  # seconds that compiling inference took
    for case in cases:
        left = options.budget - (time.monotonic() - began)
        needed = compiling * (TRAINING if case.backward else 1)
        if not why and left < needed:
            why = f"{max(left, 0):.0f} s of --budget {options.budget:.0f} are left, compiling takes about {needed:.0f}"
        outcomes = measure(case, [name for name in wanted if not (why and name == "compile")], effort)
        if why:
            outcomes["compile"] = Outcome("skipped", why)
        elif not case.backward:
            compiling = outcomes["compile"].info.get("prepare_s", compiling)
        if outcomes["compile"].timing is None:
            why = outcomes["compile"].reason  # it will not fare better in the next group
        add_rows(run, case, outcomes)
        speed_table(case, {name: outcomes[name] for name in wanted})
        wrong = wrong or any(outcome.wrong for outcome in outcomes.values())
    run.finish(markdown, PLOT)
    return int(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
