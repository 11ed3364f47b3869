"""What sparsity is worth in pre-training, in one run on a CPU: `make fcmae-report`.

The encoder alone and the whole FCMAE step, forward and backward, atto and tiny, 224 px, batch 8, 60 % of the patches
removed, beside dense convolutions times the mask: eager and under torch.compile, in both memory formats. Then the
encoder's time against the share that is removed. Every rival is checked against ours before anything is timed.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import convnextv2_fast as cf

from ..rivals.masked_dense import MaskedDenseFCMAE
from ..suite.module_cases import randomise_grn
from . import program
from .naming import OURS, published
from .program import Calls, Plot, Rows, Run, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES, PARTS = ("atto", "tiny"), ("encoder", "step")
BATCH, PIXELS, RATIO = 8, 224, 0.6
RATIOS = tuple(i / 10 for i in range(10))
RIVALS = ("masked-dense", "masked-dense-channels_last", "masked-dense-compile", "masked-dense-compile-channels_last")


class Subject:
    """One size: ours, and the masked dense model of the same weights in each form."""

    def __init__(self, size: str) -> None:
        torch.manual_seed(0)
        self.ours = getattr(cf.fcmae, f"convnextv2_{size}")(init="std02")
        randomise_grn(self.ours, 0)
        self.images = torch.randn(BATCH, 3, PIXELS, PIXELS)
        self.mask = self.ours.gen_random_mask(self.images, RATIO)
        self.gradient = torch.randn(BATCH, self.ours.imds[-1], PIXELS // 32, PIXELS // 32)
        plain = MaskedDenseFCMAE(size)
        plain.load_sparse(self.ours.state_dict())
        last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
        self.rivals = {"masked-dense": plain, "masked-dense-channels_last": last}

    def kept(self, mask: Tensor) -> int:
        return int((mask[0] == 0).sum())

    def step(self) -> Calls:
        """Whole steps."""
        kept, ours = self.kept(self.mask), self.ours

        def fast(_: int) -> Tensor:
            ours.zero_grad(set_to_none=True)
            loss = ours(self.images, mask=self.mask, kept=kept, full_pred=False)[0]
            loss.backward()
            return loss

        return {"fast": fast, **self._dense(lambda model: model, lambda model, y: y[0], lambda loss: loss.backward())}

    def encoder(self) -> Calls:
        """The encoder alone, with a given gradient of its map."""
        rivals = self._dense(lambda model: model.encode, lambda m, y: y, lambda y: y.backward(self.gradient))
        return {"fast": lambda _: self.encode(self.mask), **rivals}

    def encode(self, mask: Tensor) -> Tensor:
        self.ours.zero_grad(set_to_none=True)
        y = self.ours.encoder(self.images, mask, patch_size=32, kept=self.kept(mask))
        y.backward(self.gradient)
        return y

    def _dense(self, part: Any, result: Any, backward: Any) -> Calls:
        runs: dict[str, Callable[[int], Tensor]] = {}
        for name, model in self.rivals.items():
            last = name.endswith("channels_last")
            images = self.images.to(memory_format=torch.channels_last) if last else self.images
            kinds = {name: part(model), name.replace("dense", "dense-compile"): torch.compile(part(model))}
            for label, call in kinds.items():

                def run(_: int, model: Any = model, call: Any = call, images: Tensor = images) -> Tensor:
                    model.zero_grad(set_to_none=True)
                    y = result(model, call(images, self.mask))
                    backward(y)
                    return y

                runs[label] = run
        return runs


def placed(case: str, name: str) -> dict[str, Any]:
    """The columns of a provider's row."""
    provider, mode = published(name)
    return {"case": case, "provider": provider, "mode": mode, "batch": BATCH, "dtype": "float32"}


def beside(run: Run, rounds: int, seconds: float) -> None:
    """Both sizes and both parts, every provider, interleaved."""
    for size in SIZES:
        subject = Subject(size)
        for part in PARTS:
            columns = functools.partial(placed, f"fcmae_{size}-{PIXELS}px-{part}")
            calls = program.agreed(getattr(subject, part)())  # with ours, which is the first
            run.race("fcmae", calls, columns, rounds=rounds, warmup=2, max_seconds=seconds, least=5)
            torch._dynamo.reset()


def by_ratio(run: Run, size: str, rounds: int) -> None:
    """The encoder for every share removed, interleaved."""
    subject = Subject(size)
    masks = {str(ratio): subject.ours.gen_random_mask(subject.images, ratio) for ratio in RATIOS}

    def columns(ratio: str) -> dict[str, Any]:
        kept = {"kept_patches": subject.kept(masks[ratio])}
        return {**placed(f"fcmae_{size}-{PIXELS}px-encoder-removed{ratio}", "fast"), "figures": kept}

    calls = {ratio: lambda _, m=m: subject.encode(m) for ratio, m in masks.items()}
    run.race("fcmae", calls, columns, rounds=rounds, warmup=1)


def steps(rows: Rows) -> dict[tuple[str, str], dict[tuple[str, str], float]]:
    """Milliseconds by size and part, then by provider and mode."""
    found: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for row in rows:
        match = re.fullmatch(r"fcmae_(\w+)-\d+px-(encoder|step)", row.case)
        if match and row.ms:
            found.setdefault((match[1], match[2]), {})[row.provider, row.mode] = row.ms
    return found


def shares(rows: Rows, size: str) -> list[tuple[float, int, float]]:
    """Of a size: the share removed, the patches kept, and the encoder's milliseconds."""
    found = []
    for row in rows:
        match = re.fullmatch(rf"fcmae_{size}-\d+px-encoder-removed([\d.]+)", row.case)
        if match and row.ms:
            found.append((float(match[1]), int(row.notes["kept_patches"]), row.ms))
    return found


def times(rows: Rows) -> list[str]:
    """The table of encoders and steps, ours beside each form of masked dense."""
    columns = {"convnextv2_fast": (OURS, "eager"), **{f"{p}, {m}": (p, m) for p, m in map(published, RIVALS)}}
    lines = []
    for (size, part), ms in steps(rows).items():
        lines.append([size, part, *(f"{ms[key]:.0f}" if key in ms else "" for key in columns.values())])
    return table(["model", "part", *columns], lines)


def markdown(rows: Rows) -> str:
    """The page."""
    kept = [
        [size, f"{removed:.1f}", str(patches), f"{ms:.1f}", f"{ms / patches:.2f}"]
        for size in SIZES
        for removed, patches, ms in shares(rows, size)
    ]
    lines = [
        "# FCMAE on a CPU: sparse beside masked dense",
        "",
        f"{program.told(rows)} `make fcmae-report`. Milliseconds of forward and backward, medians of interleaved "
        f"rounds; float32, {PIXELS} px, batch {BATCH}, {RATIO:.0%} of the patches removed.",
        "",
        *times(rows),
        "",
        "The encoder against the share removed:",
        "",
        *table(["model", "removed", "patches kept of 49", "ms", "ms a patch kept"], kept),
    ]
    return "\n".join(lines) + "\n"


def figure(rows: Rows) -> Figure | None:
    """The encoder's time against the share removed, with the masked dense one's at 60 %, which knows no other."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, size in zip(drawn.subplots(1, len(SIZES)), SIZES, strict=True):
        mine = shares(rows, size)
        if not mine:
            return None
        removed = [ratio for ratio, _, _ in mine]
        axes.plot(removed, [ms for _, _, ms in mine], "o-", label="convnextv2_fast")
        a_patch = mine[0][2] / mine[0][1]
        axes.plot(removed, [a_patch * kept for _, kept, _ in mine], ":", color="grey", label="in proportion")
        for name, style in (("masked-dense-channels_last", "--"), ("masked-dense-compile-channels_last", "-.")):
            ms = steps(rows)[size, "encoder"][published(name)]
            axes.axhline(ms, linestyle=style, color="C3", label=", ".join(published(name)))
        axes.set_title(f"{size}, encoder, batch {BATCH}")
        axes.set_xlabel("share of patches removed")
        axes.set_ylabel("ms, forward and backward")
        axes.set_ylim(0)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return drawn


PLOT = Plot("fcmae", ("fcmae",), figure)


def main(arguments: list[str] | None = None) -> None:
    parser = program.options("fcmae-report", __doc__, quick="fewer rounds")
    args = parser.parse_args(arguments)
    run = program.begin(parser, args, "--quick" if args.quick else "")
    beside(run, 5 if args.quick else 11, 30.0 if args.quick else 100.0)
    for size in SIZES:
        by_ratio(run, size, 3 if args.quick else 7)
    run.finish(markdown, PLOT)


if __name__ == "__main__":
    main()
