"""How far the eight models are from float64, beside plain PyTorch in the same precision: `make numerics-report`.

Two images of 64 px, random weights with nothing at zero. Logits: the largest deviation relative to the largest logit.
Gradients: the root mean square, over all parameters, of each gradient's relative error (Euclidean norms). The float64
model is the reference in plain PyTorch; "plain" is the same reference in the row's precision.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convnextv2_fast import reference
from convnextv2_fast.cli._models import build, images
from convnextv2_fast.models.convnextv2 import SIZES
from convnextv2_fast.testing import gradient_error, relative_error, tolerance

from . import _machine

BATCH, PIXELS = 2, 64
Outcome = tuple[Tensor, dict[str, Tensor]]  # logits, and the gradient of each parameter


@dataclass(frozen=True)
class Precision:
    """`weights` is the dtype of parameters and images; `autocast`, if given, that of the products."""

    weights: torch.dtype
    autocast: torch.dtype | None = None

    @property
    def name(self) -> str:
        dtype = str(self.autocast or self.weights).removeprefix("torch.")
        return f"autocast {dtype}" if self.autocast else dtype

    @property
    def coarsest(self) -> torch.dtype:
        return self.autocast or self.weights

    def context(self) -> contextlib.AbstractContextManager[Any]:
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast("cpu", self.autocast)


PRECISIONS = (
    Precision(torch.float32),
    Precision(torch.bfloat16),
    Precision(torch.float16),
    Precision(torch.float32, torch.bfloat16),
    Precision(torch.float32, torch.float16),
)
MODES = ("eager", "compiled")


def objective(logits: Tensor) -> Tensor:
    """A fixed random combination of the logits."""
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    return (logits.double() * weights).sum()


def plain(state: Mapping[str, Tensor], precision: Precision) -> Outcome:
    """The reference in plain PyTorch."""
    params = {name: p.detach().to(precision.weights).requires_grad_() for name, p in state.items()}
    with precision.context():
        logits = reference.convnextv2(params, images(BATCH, PIXELS).to(precision.weights))
    objective(logits).backward()
    return logits.detach(), {name: p.grad for name, p in params.items() if p.grad is not None}


def ours(model: nn.Module, precision: Precision, mode: str) -> Outcome:
    """The module on this library's kernels."""
    model = copy.deepcopy(model).to(precision.weights)
    run: Callable[[Tensor], Tensor] = torch.compile(model, fullgraph=True) if mode == "compiled" else model
    with precision.context():
        logits = run(images(BATCH, PIXELS).to(precision.weights))
    objective(logits).backward()
    torch._dynamo.reset()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def errors(got: Outcome, exact: Outcome) -> dict[str, float]:
    """Of the logits and of the gradients."""
    return {"logits": relative_error(got[0], exact[0]), "gradients": gradient_error(got[1], exact[1])}


def rows(size: str, modes: tuple[str, ...] = MODES) -> Iterator[dict[str, Any]]:
    """Every precision and mode of one model."""
    model = build(size).eval()
    state = model.state_dict()
    exact = plain(state, Precision(torch.float64))
    for precision in PRECISIONS:
        beside = errors(plain(state, precision), exact)
        for mode in modes:
            if mode == "compiled" and precision.autocast is not None:
                continue
            found = errors(ours(model, precision, mode), exact)
            within = all(found[k] <= tolerance(beside[k], precision.coarsest) for k in found)
            yield {"model": size, "precision": precision.name, "mode": mode, "ours": found, "plain": beside} | {
                "within": within
            }


def markdown(results: Mapping[str, Any]) -> str:
    """The table."""
    machine = results["machine"]
    lines = [
        "# Errors against float64",
        "",
        f"{machine['cpu']}, CPU code {machine['cpu_isa']}; torch {machine['torch']}; {results['date']}, commit "
        f"{results['commit'][:12]}. `make numerics-report`. Batch {BATCH}, {PIXELS} px.",
        "",
        *table(results),
    ]
    return "\n".join([*lines, ""])


def table(results: Mapping[str, Any]) -> list[str]:
    """One row for each model, precision and mode: errors of ours, and how many times plain PyTorch's they are."""
    lines = ["| model | precision | mode | logits | of plain | gradients | of plain |", "|---|---|---|---|---|---|---|"]
    for r in results["rows"]:
        cells = [r["model"], r["precision"], r["mode"]]
        for kind in ("logits", "gradients"):
            mine, theirs = r["ours"][kind], r["plain"][kind]
            cells += [f"{mine:.1e}", f"{mine / theirs:.2f}x"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/numerics-report"))
    parser.add_argument("--models", nargs="+", choices=SIZES, default=list(SIZES))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    stem, results = _machine.report("numerics")
    found: list[dict[str, Any]] = []
    results["rows"] = found
    for size in args.models:
        for row in rows(size):
            found.append(row)
            print(row, flush=True)
            (args.out / f"{stem}.json").write_text(json.dumps(results, indent=1) + "\n")
            (args.out / f"{stem}.md").write_text(markdown(results))
    beyond = [row for row in found if not row["within"]]
    print(f"wrote {stem}.json and .md; beyond twice plain PyTorch's error: {len(beyond)}")


if __name__ == "__main__":
    main()
