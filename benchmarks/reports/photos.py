"""`make bench`: parity and speed on real photographs, in about a minute once everything is installed.

Four photographs (scikit-image's astronaut, coffee, chelsea, rocket) go through convnextv2_tiny with seeded random
weights and GRN parameters that are not zero. First every backend's logits are compared with the float64 reference; a
backend that is wrong gets no time. Then inference and one training step are timed beside timm's model with the same
weights, medians of interleaved rounds. The weights are random, so no class names are shown: they would mean nothing.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from convnextv2_fast.bench.peers import Unavailable, need
from convnextv2_fast.bench.tables import print_table

from ..rivals.sizes import SIZES
from ..suite import providers
from ..suite.cases import Setting
from ..suite.checks import difference, tolerance
from ..suite.measure import Effort, Outcome, measure
from ..suite.module_cases import ModelCase
from . import machine, program
from .naming import OURS, published
from .program import Plot, Rows, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("astronaut", "coffee", "chelsea", "rocket")
BASELINES = ("timm", "eager")  # what speed-ups are relative to: timm's model; upstream's where there is no timm
COMPILED = {"timm": "timm-compile", "eager": "compile"}
# Seconds on two cores, for the lines that announce a phase: compiling inference, and a training step beyond that.
COMPILE, COMPILE_TRAINING = 35, 120
SMALLEST = 32  # pixels: the stem divides the side by 4, the stages halve it three times
NOISY = 0.3  # a spread of rounds, relative to the median, above which a row says so
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


def parity_table(rows: list[dict[str, Any]]) -> None:
    """Prints the backends that ran; those that did not, with the reason, below."""
    cells = []
    for row in rows:
        if row["status"] != "skipped":
            errors = [f"{row[key]:.2e}" for key in ("max_absolute_error", "max_relative_error", "limit")]
            cells.append([row["backend"], *errors, row["status"]])
    title = f"Parity: logits of {len(NAMES)} photographs against the float64 reference"
    print_table(["backend", "max abs error", "max rel error", "limit", "status"], cells, title)
    for row in rows:
        if row["status"] == "skipped":
            print(f"not here: {row['reason']}")


def add_rows(run: Run, case: ModelCase, outcomes: dict[str, Outcome]) -> None:
    """What was timed of one group."""
    for name, outcome in outcomes.items():
        if outcome.timing is not None:
            provider, mode = published(name)
            placed = {"batch": case.batch, "dtype": case.setting.precision}
            figures = {"rel_error": outcome.info["max_relative_error"], **program.timed(outcome.timing, provider)}
            run.add("photos", case.what, provider, mode=mode, **placed, **figures)


def label(provider: str, mode: str) -> str:
    """Whose code and how it runs, for people."""
    whose = "upstream's code" if provider == "upstream" else provider
    return f"{whose}, {mode}" if mode else whose


def named(name: str) -> str:
    """The label of a provider's id."""
    return label(*published(name))


def speed_table(case: ModelCase, outcomes: dict[str, Outcome], baseline: str) -> None:
    """Prints one group: times, their spread, and the speed relative to the baseline."""
    based = outcomes[baseline].timing
    cells, missing = [], []
    for name, outcome in outcomes.items():
        if outcome.timing is None:
            missing.append(f"{named(name)}: {outcome.status}: {outcome.reason}")
            continue
        spread = outcome.timing.spread
        cells.append(
            [
                named(name),
                f"{1e3 * outcome.timing.median:.1f}",
                f"{outcome.info['images_per_s']:.1f}",
                f"{based.median / outcome.timing.median:.2f}x" if based else "-",
                f"{100 * spread:.0f} %",
                "NOISY: the machine was busy" if spread > NOISY else f"{len(outcome.timing.seconds)} rounds",
            ]
        )
    what = "training step (forward, loss, backward)" if case.backward else "inference"
    head = ["", "ms", "images/s", f"speed-up over {named(baseline)}", "spread", ""]
    print_table(head, cells, f"convnextv2_{case.size}, {what}, batch {case.images}, {case.setting.precision}")
    for line in missing:
        print(line)


def markdown(rows: Rows) -> str:
    """The page."""
    lines = []
    for row in rows:
        spread = (f"{row.ms:.1f}", f"{row.p20:.1f}", f"{row.p80:.1f}")
        lines.append([row.case, str(row.batch), label(row.provider, row.mode), *spread, f"{row.rel_error:.1e}"])
    head = ["case", "batch", "provider", "ms, median", "20 %", "80 %", "rel. error"]
    return "\n".join(["# Photographs", "", f"{program.told(rows)} `make bench`.", "", *program.table(head, lines), ""])


def figure(rows: Rows) -> Figure:
    """A panel of bars for each case and batch."""
    from matplotlib.figure import Figure

    groups = sorted({(row.case, row.batch) for row in rows})
    drawn = Figure(figsize=(4.2 * len(groups), 3.4))
    for i, group in enumerate(groups):
        axis = drawn.add_subplot(1, len(groups), i + 1)
        mine = [row for row in rows if (row.case, row.batch) == group]
        colours = ["#2b6cb0" if row.provider == OURS else "#cbd5e0" for row in mine]
        axis.barh([label(row.provider, row.mode) for row in mine], [row.ms or 0.0 for row in mine], color=colours)
        axis.invert_yaxis()
        axis.set_xlabel("ms (median, less is better)")
        axis.set_title(f"{group[0]}, batch {group[1]}", fontsize=7)
    drawn.suptitle(f"{rows[0].machine}, torch {rows[0].torch}", fontsize=8)
    drawn.tight_layout()
    return drawn


def _load() -> str:
    """The machine's load over the last minute: processes that want to run; "unknown" where the system does not say."""
    try:
        return f"{os.getloadavg()[0]:.1f}"
    except (AttributeError, OSError):
        return "unknown"


def say(began: float, what: str, about: int) -> None:
    """Announces a phase: the seconds since the start, and about how many it will take."""
    print(f"[{time.monotonic() - began:4.0f} s] {what} (about {about} s)", flush=True)


PLOT = Plot("photos", ("photos",), figure)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 if any backend is wrong."""
    parser = program.options("photos", (__doc__ or "").splitlines()[0])
    parser.prog = "make bench"
    parser.add_argument("--size", choices=SIZES, default="tiny", metavar="NAME", help="atto .. huge (default tiny)")
    pixels = f"side of the photographs in pixels, from {SMALLEST} (default 224)"
    parser.add_argument("--resolution", type=program.whole(SMALLEST), default=224, help=pixels)
    parser.add_argument("--rounds", type=program.whole(1), default=9, help="at most (default 9)")
    until = "no new round of a group after this (default 10)"
    parser.add_argument("--seconds", type=program.seconds, default=10.0, help=until)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out altogether")
    parser.add_argument("--full", action="store_true", help="torch.compile in every group, the training step too")
    options = parser.parse_args(arguments)
    try:
        return _measure_all(parser, options)
    except KeyboardInterrupt:
        print(f"\ninterrupted; what was measured until then stands above and in {options.out}", flush=True)
        return 130


def _baseline(case: PhotoCase) -> str:
    """The first of BASELINES that can be built here."""
    for name in BASELINES[:-1]:
        try:
            providers.build(name, case)
        except Unavailable as reason:
            print(f"no {name} here ({reason}): the baseline is upstream's code in plain PyTorch")
        else:
            return name
    return BASELINES[-1]


def _measure_all(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Exit code 1 if any backend is wrong."""
    card = machine.gpu()
    run = program.begin(parser, options, gpu_named=str(card["name"]) if card else "")
    began = time.monotonic()
    setting = Setting("cuda" if card else "cpu", "float32")
    here = machine.describe()
    where = card["name"] if card else f"{here['cpu']}, {here['threads']} threads, {here['torch_isa']}"
    print(f"{where}; torch {here['torch']}; load before the start {_load()}", flush=True)
    images = photographs(options.resolution)

    wanted_cases = ((4, False), (1, False), (4, True))
    cases = [PhotoCase(images, batch, setting, backward, options.size) for batch, backward in wanted_cases]
    say(began, "parity of each backend with float64", 5)
    checked = parity(cases[0])
    parity_table(checked)
    wrong = any(row["status"] == "WRONG" for row in checked)
    ours = [f"fast-{row['backend']}" for row in checked if row["status"] == "ok" and row["backend"] != "torch"]
    baseline = _baseline(cases[0])
    effort = Effort(rounds=options.rounds, warmup=1, round_seconds=0.0, max_seconds=options.seconds)
    left_out = []
    for i, case in enumerate(cases):
        wanted = [*(ours or ["fast-torch"]), baseline]
        compiling = not options.no_compile and (options.full or i == 0)
        if compiling:
            wanted.append(COMPILED[baseline])
        else:
            left_out.append(f"{'training step' if case.backward else 'inference'}, batch {case.images}")
        what = (
            f"{'training step' if case.backward else 'inference'}, batch {case.images}: {', '.join(map(named, wanted))}"
        )
        extra = (COMPILE_TRAINING if case.backward else COMPILE) if compiling else 0
        say(began, what, round(options.seconds) + 4 + extra)
        outcomes = measure(case, wanted, effort)
        add_rows(run, case, outcomes)
        speed_table(case, {name: outcomes[name] for name in wanted}, baseline)
        wrong = wrong or any(outcome.wrong for outcome in outcomes.values())
    print(
        f"timm's model has our weights, in channels_last memory order; medians of interleaved rounds; "
        f"spread: 20 to 80 % of the rounds; load after the end {_load()}"
    )
    if left_out:
        why = "--no-compile" if options.no_compile else "--full adds it (make bench ARGS=--full, minutes more)"
        print(f"without torch.compile: {'; '.join(left_out)}. {why}")
    run.finish(markdown, PLOT)
    return int(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
