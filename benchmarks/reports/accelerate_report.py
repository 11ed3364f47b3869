"""What `accelerate` gives a timm or transformers model on a CPU: `make accelerate-report`.

Tiny, batch 8, 224 px, float32, inference and training step (forward and backward), each library's model eager, under
torch.compile and accelerated, interleaved in one run; accelerated also without packed copies of the weights. Every
form is checked against the eager model before anything is timed. Then what `accelerate` itself costs.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import convnextv2_fast as cf
from convnextv2_fast.bench import inside, peers
from convnextv2_fast.testing import randomise

from . import machine, program, tidy
from .naming import OURS
from .program import Calls, Rows, Run, table

BATCH, PIXELS, CLASSES = 8, 224, 1000
FAST, UNPACKED = "accelerated", "accelerated, nothing packed"
Call = Callable[[int], Tensor]


def timm_tiny(name: str) -> nn.Module:
    return peers.load("timm").create_model(name)


def transformers_tiny() -> nn.Module:
    config = peers.transformers_config("tiny", CLASSES)
    from transformers import ConvNextV2ForImageClassification

    return peers.Logits(ConvNextV2ForImageClassification(config))


# Library and model. convnext_tiny is ConvNeXt V1.
MODELS: dict[str, Callable[[], nn.Module]] = {
    "timm/convnextv2_tiny": functools.partial(timm_tiny, "convnextv2_tiny"),
    "transformers/convnextv2_tiny": transformers_tiny,
    "timm/convnext_tiny": functools.partial(timm_tiny, "convnext_tiny"),
}


def unpacked(call: Call) -> Call:
    """The same with CONVNEXTV2_FAST_PREPACK=0."""

    def without(i: int) -> Tensor:
        inside.hold_packed(False)
        try:
            return call(i)
        finally:
            inside.hold_packed(True)

    return without


def forms(model: nn.Module, x: Tensor, train: bool) -> Calls:
    """The forms of one model by mode, checked."""

    def of(m: nn.Module, call: Any) -> Call:
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
    found = {"eager": of(eager, eager), "compile": of(compiled, torch.compile(compiled)), FAST: of(fast, fast)}
    if not train:
        found[UNPACKED] = unpacked(found[FAST])
    return program.agreed(found)


def placed(case: str, library: str, mode: str) -> dict[str, Any]:
    """The columns of a form's row."""
    provider = OURS if mode in (FAST, UNPACKED) else library
    return {"case": case, "provider": provider, "mode": mode, "batch": BATCH, "dtype": "float32", "peer": library}


def measured(run: Run, rounds: int, seconds: float) -> None:
    """Every model, forward and forward with backward, its forms interleaved."""
    x = torch.randn(BATCH, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0))
    for name, make in MODELS.items():
        model, library = randomise(make(), 0), name.partition("/")[0]
        for passes in ("forward", "forward_backward"):
            calls = forms(model, x, passes == "forward_backward")
            columns = functools.partial(placed, f"{name}-{PIXELS}px-{passes}", library)
            run.race("accelerate", calls, columns, rounds=rounds, warmup=2, max_seconds=seconds, least=5)
            torch._dynamo.reset()


def cost(run: Run) -> None:
    """Milliseconds of `accelerate`, the size of the parameters, and what inference then keeps packed."""
    for name, make in MODELS.items():
        inside.forget_packed()
        model, library = make().eval(), name.partition("/")[0]
        addresses = [p.data_ptr() for p in model.parameters()]
        start = time.perf_counter()
        report = cf.accelerate(model)
        elapsed = 1e3 * (time.perf_counter() - start)
        assert addresses == [p.data_ptr() for p in model.parameters()]
        added = inside.packed_bytes()
        with torch.no_grad():
            model(torch.randn(1, 3, PIXELS, PIXELS))
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        note = tidy.noted(
            modules=len(report.replaced),
            added_bytes=added,
            parameters_mib=f"{weights / 2**20:.6g}",
            packed_mib=f"{inside.packed_bytes() / 2**20:.6g}",
            **{library: machine.version(library)},
        )
        run.add("accelerate-cost", name, OURS, mode=FAST, dtype="float32", ms=elapsed, note=note)


def times(rows: Rows) -> list[str]:
    """The table of models: ours in ms, and how many times as long the other forms take."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.part == "accelerate" and row.ms:
            found.setdefault(row.case, {})[row.mode] = row.ms
    columns = {"eager": "eager", "compile": "torch.compile", UNPACKED: "accelerated, nothing packed"}
    lines = []
    for case, ms in found.items():
        model, passes = case.split(f"-{PIXELS}px-")
        ratios = (f"{ms[mode] / ms[FAST]:.2f}x" if mode in ms else "" for mode in columns)
        lines.append([model, "inference" if passes == "forward" else "training", f"{ms[FAST]:.0f}", *ratios])
    return table(["model", "", "accelerated, ms", *columns.values()], lines)


def costs(rows: Rows) -> list[str]:
    """The table of what `accelerate` itself takes."""
    lines = []
    for row in rows:
        if row.part == "accelerate-cost":
            n = row.notes
            sizes = [f"{float(n[name]):.0f}" for name in ("parameters_mib", "packed_mib")]
            lines.append([row.case, n["modules"], f"{row.ms:.1f}", n["added_bytes"], *sizes])
    return table(["model", "modules", "ms", "bytes added", "parameters, MiB", "packed, MiB"], lines)


def markdown(rows: Rows) -> str:
    """The page."""
    lines = [
        "# timm and transformers models, accelerated, on a CPU",
        "",
        f"{program.told(rows)} `make accelerate-report`. Float32, {PIXELS} px, batch {BATCH}; training: forward and "
        "backward; medians of interleaved rounds. Ratios: how many times as long as accelerated.",
        "",
        *times(rows),
        "",
        "`accelerate` itself, and what inference on the CPU then keeps packed (none with `CONVNEXTV2_FAST_PREPACK=0`):",
        "",
        *costs(rows),
        "",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = program.options("accelerate-report", __doc__, quick="fewer rounds")
    args = parser.parse_args(arguments)
    run = program.begin(parser, args, "--quick" if args.quick else "")
    cost(run)
    measured(run, *((5, 10.0) if args.quick else (15, 60.0)))
    run.finish(markdown)


if __name__ == "__main__":
    main()
