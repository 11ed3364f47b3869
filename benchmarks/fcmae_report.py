"""What sparsity is worth in pre-training, in one run on a CPU: `make fcmae-report`.

The encoder alone and the whole FCMAE step, forward and backward, atto and tiny, 224 px, batch 8, 60 % of the patches
removed, beside dense convolutions times the mask: eager and under torch.compile, in both memory formats. Then the
encoder's time against the share that is removed. Every rival is checked against ours before anything is timed.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import convnextv2_fast as cf

from . import _machine
from ._timing import CpuWatch, Timing, interleaved
from .masked_dense import MaskedDenseFCMAE
from .module_cases import randomise_grn

BATCH, PIXELS, RATIO = 8, 224, 0.6
RATIOS = tuple(i / 10 for i in range(10))
TOLERANCE = 1e-4
OURS, BEST = "fast-cpu", "masked-dense-compile-channels_last"
Run = Callable[[int], object]


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

    def step(self) -> dict[str, Run]:
        """Whole steps."""
        kept, ours = self.kept(self.mask), self.ours

        def fast(_: int) -> Tensor:
            ours.zero_grad(set_to_none=True)
            loss = ours(self.images, mask=self.mask, kept=kept, full_pred=False)[0]
            loss.backward()
            return loss

        return {OURS: fast, **self._dense(lambda model: model, lambda model, y: y[0], lambda loss: loss.backward())}

    def encoder(self) -> dict[str, Run]:
        """The encoder alone, with a given gradient of its map."""
        rivals = self._dense(lambda model: model.encode, lambda m, y: y, lambda y: y.backward(self.gradient))
        return {OURS: lambda _: self.encode(self.mask), **rivals}

    def encode(self, mask: Tensor) -> Tensor:
        self.ours.zero_grad(set_to_none=True)
        y = self.ours.encoder(self.images, mask, patch_size=32, kept=self.kept(mask))
        y.backward(self.gradient)
        return y

    def _dense(self, part: Any, result: Any, backward: Any) -> dict[str, Run]:
        runs: dict[str, Run] = {}
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


def agreed(runs: dict[str, Run]) -> dict[str, Run]:
    """The same, once every one has given ours' result.

    Raises:
        AssertionError: one has not.
    """
    want = runs[OURS](0).detach()  # type: ignore[attr-defined]
    for name, run in runs.items():
        error = (run(0).detach() - want).abs().max() / want.abs().max()  # type: ignore[attr-defined]
        assert error <= TOLERANCE, f"{name}: differs by {error:.1e}"
    return runs


def rows(rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Both sizes and both parts, every provider, interleaved."""
    found = []
    for size in ("atto", "tiny"):
        subject = Subject(size)
        for part in ("encoder", "step"):
            runs = agreed(getattr(subject, part)())
            timings = interleaved(runs, watch=CpuWatch(), rounds=rounds, warmup=2, max_seconds=seconds, least=5)
            for name, timing in timings.items():
                assert isinstance(timing, Timing), timing
                row = {"size": size, "part": part, "provider": name, **timing.milliseconds()}
                found.append(row | {"best_ms": round(1e3 * min(timing.seconds), 3)})
                print(f"  {size} {part} {name}: {row['ms']:.1f} ms", flush=True)
            torch._dynamo.reset()
    return found


def by_ratio(size: str, rounds: int) -> list[dict[str, Any]]:
    """The encoder's milliseconds for every share removed, interleaved."""
    subject = Subject(size)
    masks = {ratio: subject.ours.gen_random_mask(subject.images, ratio) for ratio in RATIOS}
    runs: dict[str, Run] = {str(r): lambda _, m=m: subject.encode(m) for r, m in masks.items()}
    timings = interleaved(runs, watch=CpuWatch(), rounds=rounds, warmup=1)
    found = []
    for ratio, mask in masks.items():
        timing = timings[str(ratio)]
        assert isinstance(timing, Timing), timing
        found.append({"size": size, "ratio": ratio, "kept": subject.kept(mask), "ms": round(1e3 * timing.median, 3)})
    print(f"  {size} by ratio: {[row['ms'] for row in found]}", flush=True)
    return found


def markdown(results: dict[str, Any]) -> str:
    """The tables."""
    machine = results["machine"]
    lines = [
        "# FCMAE on a CPU: sparse beside masked dense",
        "",
        f"{machine['cpu']}, {machine['threads']} threads; torch {machine['torch']}; {results['date']}, "
        f"commit {results['commit'][:12]}. `make fcmae-report`. Forward and backward, float32, {PIXELS} px, batch "
        f"{BATCH}, {RATIO:.0%} of the patches removed; interleaved, medians (best) in ms.",
        "",
        "| size | part | provider | ms | best | times ours |",
        "|---|---|---|---|---|---|",
    ]
    ours = {(r["size"], r["part"]): r["ms"] for r in results["rows"] if r["provider"] == OURS}
    for row in results["rows"]:
        cells = (row["size"], row["part"], row["provider"], f"{row['ms']:.1f}", f"{row['best_ms']:.1f}")
        lines.append(f"| {' | '.join(cells)} | {row['ms'] / ours[row['size'], row['part']]:.2f} |")
    lines += [
        "",
        "The encoder against the share removed:",
        "",
        "| size | removed | patches kept of 49 | ms | a patch kept |",
    ]
    lines += ["|---|---|---|---|---|"]
    for row in results["ratios"]:
        each = row["ms"] / row["kept"]
        lines.append(f"| {row['size']} | {row['ratio']:.1f} | {row['kept']} | {row['ms']:.1f} | {each:.2f} |")
    return "\n".join(lines) + "\n"


def plot(results: dict[str, Any], path: Path) -> None:
    """The encoder's time against the share removed, with the masked dense one's at 60 %, which knows no other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, size in zip(figure.subplots(1, 2), ("atto", "tiny"), strict=True):
        mine = [row for row in results["ratios"] if row["size"] == size]
        axes.plot([r["ratio"] for r in mine], [r["ms"] for r in mine], "o-", label="convnextv2_fast")
        share = mine[0]["ms"] / mine[0]["kept"]
        axes.plot(
            [r["ratio"] for r in mine], [share * r["kept"] for r in mine], ":", color="grey", label="in proportion"
        )
        for provider, style in (("masked-dense-channels_last", "--"), (BEST, "-.")):
            wanted = (size, "encoder", provider)
            ms = next(r["ms"] for r in results["rows"] if (r["size"], r["part"], r["provider"]) == wanted)
            axes.axhline(ms, linestyle=style, color="C3", label=provider)
        axes.set_title(f"{size}, encoder, batch {BATCH}")
        axes.set_xlabel("share of patches removed")
        axes.set_ylabel("ms, forward and backward")
        axes.set_ylim(0)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    FigureCanvasAgg(figure).print_figure(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/fcmae-report"))
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    stem, results = _machine.report("fcmae")
    results["rows"] = rows(5 if args.quick else 11, 30.0 if args.quick else 100.0)
    results["ratios"] = [row for size in ("atto", "tiny") for row in by_ratio(size, 3 if args.quick else 7)]
    (args.out / f"{stem}.json").write_text(json.dumps(results, indent=1) + "\n")
    (args.out / f"{stem}.md").write_text(markdown(results))
    plot(results, args.out / f"{stem}.png")
    print(f"wrote {stem}.json, .md and .png")


if __name__ == "__main__":
    main()
