"""How far the eight models are from float64, beside plain PyTorch in the same precision: `make numerics-report`.

Two images of 64 px, random weights with nothing at zero. Logits: the largest deviation relative to the largest logit.
Gradients: the root mean square, over all parameters, of each gradient's relative error (Euclidean norms). The float64
model is the reference in plain PyTorch; "plain" is the same reference in the row's precision.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convnextv2_fast import reference
from convnextv2_fast.bench.models import build, images
from convnextv2_fast.models.convnextv2 import SIZES
from convnextv2_fast.testing import gradient_error, relative_error, tolerance

from . import program
from .naming import OURS
from .program import Rows, Run, table

BATCH, PIXELS = 2, 64
KINDS = ("logits", "gradients")
Outcome = tuple[Tensor, dict[str, Tensor]]  # logits, and the gradient of each parameter


@dataclass(frozen=True)
class Precision:
    """`weights` is the dtype of parameters and images; `autocast`, if given, that of the products."""

    weights: torch.dtype
    autocast: torch.dtype | None = None

    @property
    def name(self) -> str:
        """As in the column `dtype`: `amp` is autocast to bfloat16."""
        if self.autocast is None:
            return str(self.weights).removeprefix("torch.")
        return "amp" if self.autocast == torch.bfloat16 else f"amp-{str(self.autocast).removeprefix('torch.')}"

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
MODES = ("eager", "compile")


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
    run: Callable[[Tensor], Tensor] = torch.compile(model, fullgraph=True) if mode == "compile" else model
    with precision.context():
        logits = run(images(BATCH, PIXELS).to(precision.weights))
    objective(logits).backward()
    torch._dynamo.reset()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def errors(got: Outcome, exact: Outcome) -> dict[str, float]:
    """Of the logits and of the gradients."""
    return {"logits": relative_error(got[0], exact[0]), "gradients": gradient_error(got[1], exact[1])}


def measured(run: Run, size: str, modes: tuple[str, ...] = MODES) -> None:
    """Every precision and mode of one model."""
    model = build(size).eval()
    state = model.state_dict()
    exact = plain(state, Precision(torch.float64))
    for precision in PRECISIONS:
        found = {("pytorch", "plain"): errors(plain(state, precision), exact)}
        for mode in modes:
            if mode == "eager" or precision.autocast is None:
                found[OURS, mode] = errors(ours(model, precision, mode), exact)
        for (provider, mode), each in found.items():
            for kind, error in each.items():
                case = f"convnextv2_{size}-{PIXELS}px-{kind}"
                run.add("numerics", case, provider, mode=mode, batch=BATCH, dtype=precision.name, rel_error=error)
                print(f"  {case} {precision.name} {provider} {mode}: {error:.1e}", flush=True)


@dataclass(frozen=True)
class Pair:
    """The error of this library, and that of plain PyTorch in the same precision."""

    ours: float
    plain: float
    precision: Precision

    @property
    def ratio(self) -> float:
        return self.ours / self.plain

    @property
    def within(self) -> bool:
        """Whether it keeps the rule of the library."""
        return self.ours <= tolerance(self.plain, self.precision.coarsest)


def pairs(rows: Rows) -> dict[tuple[str, str, str], dict[str, Pair]]:
    """By model, precision and mode; then of the logits and of the gradients."""
    precisions = {precision.name: precision for precision in PRECISIONS}
    beside = {(row.case, row.dtype): row.rel_error for row in rows if row.provider == "pytorch"}
    found: dict[tuple[str, str, str], dict[str, Pair]] = {}
    for row in rows:
        theirs = beside[row.case, row.dtype]
        if row.provider == OURS and row.rel_error is not None and theirs:
            name, _, kind = row.case.split("-")
            pair = Pair(row.rel_error, theirs, precisions[row.dtype])
            found.setdefault((name.removeprefix("convnextv2_"), row.dtype, row.mode), {})[kind] = pair
    return found


def summary(rows: Rows) -> str:
    """How many rows of the table keep the rule, and the largest ratio."""
    found = [each.values() for each in pairs(rows).values()]
    kept = sum(all(pair.within for pair in each) for each in found)
    largest = max(pair.ratio for each in found for pair in each)
    return f"{kept} of {len(found)} rows keep the rule; the largest ratio is {largest:.2f}."


def errors_table(rows: Rows) -> list[str]:
    """One line for each model, precision and mode: this library's errors, and their ratio to plain PyTorch's."""
    lines = []
    for key, each in pairs(rows).items():
        cells = (cell for kind in KINDS for cell in (f"{each[kind].ours:.1e}", f"{each[kind].ratio:.2f}x"))
        lines.append([*key, *cells])
    return table(
        ["model", "dtype", "mode", "logits error", "÷ plain PyTorch", "gradients error", "÷ plain PyTorch"], lines
    )


def markdown(rows: Rows) -> str:
    """The page."""
    head = f"{program.told(rows)} `make numerics-report`. Batch {BATCH}, {PIXELS} px. {summary(rows)}"
    return "\n".join(["# Errors against float64", "", head, "", *errors_table(rows), ""])


def main(arguments: list[str] | None = None) -> None:
    parser = program.options("numerics-report", __doc__)
    parser.add_argument("--models", nargs="+", choices=SIZES, default=list(SIZES))
    args = parser.parse_args(arguments)
    run = program.begin(parser, args, "" if set(args.models) == set(SIZES) else "--models")
    for size in args.models:
        measured(run, size)
    run.finish(markdown)


if __name__ == "__main__":
    main()
