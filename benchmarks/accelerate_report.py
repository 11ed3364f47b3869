"""What `accelerate` gives a timm or transformers model on a CPU: `make accelerate-report`.

Tiny, batch 8, 224 px, float32, inference and training step (forward and backward), each library's model eager, under
torch.compile and accelerated, interleaved in one run; accelerated also without packed copies of the weights. Every
form is checked against the eager model before anything is timed. Then what `accelerate` itself costs.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import convnextv2_fast as cf
from convnextv2_fast.ops import _kept
from convnextv2_fast.testing import randomise

from . import _machine, peers
from ._timing import CpuWatch, Timing, interleaved

BATCH, PIXELS, CLASSES = 8, 224, 1000
TOLERANCE = 1e-4
OURS, UNPACKED = "accelerated", "accelerated, nothing packed"
Run = Callable[[int], object]


def timm_tiny(name: str) -> nn.Module:
    return peers.import_timm().create_model(name)


def transformers_tiny() -> nn.Module:
    config = peers.transformers_config("tiny", CLASSES)
    from transformers import ConvNextV2ForImageClassification

    return peers.Logits(ConvNextV2ForImageClassification(config))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "timm convnextv2_tiny": functools.partial(timm_tiny, "convnextv2_tiny"),
    "transformers ConvNextV2 tiny": transformers_tiny,
    "timm convnext_tiny (V1)": functools.partial(timm_tiny, "convnext_tiny"),
}


def unpacked(run: Run) -> Run:
    """The same with CONVNEXTV2_FAST_PREPACK=0."""

    def without(i: int) -> object:
        _kept.enabled = False
        try:
            return run(i)
        finally:
            _kept.enabled = True

    return without


def runs(model: nn.Module, x: Tensor, train: bool) -> dict[str, Run]:
    """The forms of one model, checked."""

    def of(m: nn.Module, call: Any) -> Run:
        def step(_: int) -> Tensor:
            m.zero_grad(set_to_none=True)
            y = call(x)
            y.square().mean().backward()
            return y.detach()

        def infer(_: int) -> Tensor:
            with torch.no_grad():
                return call(x)

        return step if train else infer

    eager, compiled, fast = (copy.deepcopy(model).train(train) for _ in range(3))
    cf.accelerate(fast)
    found = {"eager": of(eager, eager), "torch.compile": of(compiled, torch.compile(compiled)), OURS: of(fast, fast)}
    if not train:
        found[UNPACKED] = unpacked(found[OURS])
    want = found["eager"](0)
    for name, run in found.items():
        error = (run(0) - want).abs().max() / want.abs().max()  # type: ignore[operator, attr-defined]
        assert error <= TOLERANCE, f"{name}: differs by {error:.1e}"
    return found


def measured(rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Every model and mode, its forms interleaved."""
    found = []
    x = torch.randn(BATCH, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0))
    for name, make in MODELS.items():
        model = randomise(make(), 0)
        for mode in ("inference", "training"):
            forms = runs(model, x, mode == "training")
            timings = interleaved(forms, watch=CpuWatch(), rounds=rounds, warmup=2, max_seconds=seconds, least=5)
            for form, timing in timings.items():
                assert isinstance(timing, Timing), timing
                found.append({"model": name, "mode": mode, "form": form, **timing.milliseconds()})
                print(f"  {name} {mode} {form}: {found[-1]['ms']:.1f} ms", flush=True)
            torch._dynamo.reset()
    return found


def cost() -> list[dict[str, Any]]:
    """Milliseconds of `accelerate`, bytes of parameters, and bytes that inference then keeps packed."""
    found = []
    for name, make in MODELS.items():
        _kept.clear()
        model = make().eval()
        addresses = [p.data_ptr() for p in model.parameters()]
        start = time.perf_counter()
        report = cf.accelerate(model)
        elapsed = 1e3 * (time.perf_counter() - start)
        assert addresses == [p.data_ptr() for p in model.parameters()]
        added = _kept.kept_bytes()
        with torch.no_grad():
            model(torch.randn(1, 3, PIXELS, PIXELS))
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        row = {"model": name, "accelerate_ms": round(elapsed, 2), "modules": len(report.replaced), "added_bytes": added}
        found.append(row | {"parameter_bytes": weights, "packed_bytes_in_inference": _kept.kept_bytes()})
    return found


def markdown(results: dict[str, Any]) -> str:
    """The tables."""
    machine = results["machine"]
    lines = [
        "# timm and transformers models, accelerated, on a CPU",
        "",
        f"{machine['cpu']}, {machine['threads']} threads; torch {machine['torch']}; {results['date']}, "
        f"commit {results['commit'][:12]}. `make accelerate-report`. Float32, {PIXELS} px, batch {BATCH}; training: "
        "forward and backward; interleaved, medians in ms.",
        "",
        "| model | mode | form | ms | times ours |",
        "|---|---|---|---|---|",
    ]
    ours = {(r["model"], r["mode"]): r["ms"] for r in results["rows"] if r["form"] == OURS}
    for r in results["rows"]:
        ratio = r["ms"] / ours[r["model"], r["mode"]]
        lines.append(f"| {r['model']} | {r['mode']} | {r['form']} | {r['ms']:.0f} | {ratio:.2f} |")
    lines += [
        "",
        "`accelerate` itself, and what inference on the CPU then keeps packed (none with `CONVNEXTV2_FAST_PREPACK=0`):",
        "",
        "| model | modules | ms | parameters, MiB | memory added by `accelerate` | packed, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for r in results["cost"]:
        weights, packed = r["parameter_bytes"] / 2**20, r["packed_bytes_in_inference"] / 2**20
        lines.append(
            f"| {r['model']} | {r['modules']} | {r['accelerate_ms']:.1f} | {weights:.0f} | {r['added_bytes']} | "
            f"{packed:.0f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/accelerate-report"))
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    stem, results = _machine.report("accelerate")
    results["cost"] = cost()
    results["rows"] = measured(*((5, 10.0) if args.quick else (15, 60.0)))
    (args.out / f"{stem}.json").write_text(json.dumps(results, indent=1) + "\n")
    (args.out / f"{stem}.md").write_text(markdown(results))
    print(f"wrote {stem}.json and .md")


if __name__ == "__main__":
    main()
