"""`check`: every backend that is here against the float64 references, op by op and in whole models."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from .. import dispatch, library, testing
from ..bench.checks import HEAD, Line, Results, check_models, judge
from ..bench.settings import no_tf32, one_line, threads
from .arguments import CommandError, device, devices, require_device

# Activations and parameters; the last pair is what autocast gives.
DTYPES = (
    (torch.float32, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16),
    (torch.bfloat16, torch.float32),
)
# N, H, W, C: whole vectors and tails, fewer and more pixels than the 7x7 window, one image and several.
SHAPES = ((2, 7, 7, 40), (1, 14, 9, 48), (3, 2, 3, 19))


def add_parser(commands: Any) -> None:
    """Adds the command to argparse's subparsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "check",
        help="self-test: every backend against the float64 references",
        description="Runs every implementation that works here, forward and every gradient, and whole models, against "
        "the float64 references. An error may be twice that of plain PyTorch in the same dtype, plus 4 eps. "
        "Exit code 1 if anything fails, or if the native library for the device at hand is missing; "
        "CONVNEXTV2_FAST_QUIET=1 accepts that.",
    )
    add = parser.add_argument
    add("--op", action="append", choices=dispatch.registered_ops(), help="only this op, no whole models (repeatable)")
    add("--backend", choices=dispatch.NAMES[1:], help="only this backend")
    add("--device", type=device, help="only this device (default: the CPU, and the first CUDA device if any)")
    add("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def dtype_name(dtype: torch.dtype, params: torch.dtype) -> str:
    """`bfloat16`, or `bfloat16/float32` where the parameters have another dtype."""
    names = [str(d).removeprefix("torch.") for d in (dtype, params)]
    return names[0] if dtype == params else "/".join(names)


def evaluate(problem: testing.Problem, backend: str | None, gradients: bool) -> Results:
    """The op's output with and without gradients, and every gradient; of the reference where `backend` is None."""

    def call() -> Tensor:
        return problem.reference() if backend is None else problem.public(backend=backend)

    with torch.no_grad():
        found = {"output": call()}
    if gradients:
        y = call()
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        y.backward(weights.to(y))
        found["output in training"] = y.detach()
        found |= {f"gradient of {name}": t.grad for name, t in problem.tensors.items() if t.grad is not None}
    return found


class OpChecks:
    """The checks of one op's implementations. Exact and plain results are computed once and shared among backends."""

    def __init__(self, op: str) -> None:
        self.op = op
        self._known: dict[tuple[Any, ...], Results] = {}

    def _reference(
        self, shape: tuple[int, int, int, int], kind: str, at: torch.device, dtype: Any, params: Any
    ) -> Results:
        key = (shape, kind, at, dtype, params)
        if key not in self._known:
            problem = testing.make(self.op, *shape, kind).to(dtype, device=at, param_dtype=params)
            with threads(1):  # see bench.settings.threads
                self._known[key] = evaluate(problem, None, gradients=True)
        return self._known[key]

    def _refusals(self, candidate: dispatch.Implementation, kind: str, at: torch.device) -> dict[Any, list[str]]:
        """For each pair of dtypes, why the implementation cannot even infer."""
        with torch.no_grad():
            problem = testing.make(self.op, *SHAPES[0], kind)
            return {
                (dtype, params): candidate.reasons(problem.to(dtype, device=at, param_dtype=params).spec())
                for dtype, params in DTYPES
            }

    def _run(self, candidate: dispatch.Implementation, kind: str, at: torch.device, dtype: Any, params: Any) -> Line:
        line = Line("ok", self.op, candidate.backend, str(at), kind, dtype_name(dtype, params))
        only_forward: list[str] = []
        for shape in SHAPES:
            try:
                problem = testing.make(self.op, *shape, kind).to(dtype, device=at, param_dtype=params)
                only_forward = candidate.reasons(problem.spec())
                exact = self._reference(shape, kind, torch.device("cpu"), torch.float64, torch.float64)
                plain = self._reference(shape, kind, at, dtype, params)
                judge(line, evaluate(problem, candidate.backend, not only_forward), plain, exact, dtype)
            except Exception as error:  # whatever a kernel does wrong is a finding, not the end of the report
                return line.fail(one_line(error, 1))
        if only_forward:
            line.note += f"; inference only: {'; '.join(only_forward)}"
        return line

    def lines(self, candidate: dispatch.Implementation, places: Sequence[torch.device]) -> Iterator[Line]:
        """One line per device, layout and dtype; one for all where the implementation runs on none of the devices."""
        kinds = testing.kinds(self.op)
        refusals = {(at, kind): self._refusals(candidate, kind, at) for at in places for kind in kinds}
        here = [at for at in places if any(not why for kind in kinds for why in refusals[at, kind].values())]
        if not here:
            refused = [why for found in refusals.values() for why in found.values()]
            shortest = min(refused, key=len)
            yield Line("skipped", self.op, candidate.backend, note="; ".join(shortest))
        for at in here:
            for kind in kinds:
                found = refusals[at, kind]
                if all(found.values()):
                    shortest = min(found.values(), key=len)
                    yield Line("skipped", self.op, candidate.backend, str(at), kind, note="; ".join(shortest))
                    continue
                for (dtype, params), why in found.items():
                    if why:
                        name = dtype_name(dtype, params)
                        yield Line("skipped", self.op, candidate.backend, str(at), kind, name, note="; ".join(why))
                    else:
                        yield self._run(candidate, kind, at, dtype, params)


def check_ops(ops: Sequence[str], backend: str | None, places: Sequence[torch.device]) -> Iterator[Line]:
    """Every implementation but the reference of every op."""
    for op in ops:
        candidates = [c for c in dispatch.implementations(op) if c.backend != "torch"]
        if backend is not None:
            candidates = [c for c in candidates if c.backend == backend]
        elif not candidates:
            yield Line("skipped", op, "torch", note="the reference is its only implementation yet")
        checks = OpChecks(op)
        for candidate in candidates:
            yield from checks.lines(candidate, places)


def check_library(backend: str | None) -> Iterator[Line]:
    """A failure if this installation lacks the native library for the device at hand."""
    name = library.expected()
    missing = library.missing_kernels()
    if missing is not None and backend in (None, name):
        yield Line("FAIL", f"_C_{name}.so", name, note=missing)


def run(args: argparse.Namespace) -> int:
    """Prints one line per check and a sum; 1 if any failed, or the native library for the device at hand is missing.

    Raises:
        CommandError: a device that is not there, or a backend that no op has.
    """
    places = devices() if args.device is None else [require_device(args.device)]
    ops = args.op or dispatch.registered_ops()
    if args.backend and not any(c.backend == args.backend for op in ops for c in dispatch.implementations(op)):
        raise CommandError(f"no {args.backend} implementation of {', '.join(ops)} exists yet")
    start, found = time.perf_counter(), []
    if not args.json:
        print(f"{HEAD}largest error (of which result)")
    for line in check_library(args.backend):
        found.append(_show(line, args.json))
    with no_tf32():
        for line in check_ops(ops, args.backend, places):
            found.append(_show(line, args.json))
        for line in () if args.op else check_models(args.backend, places):
            found.append(_show(line, args.json))
    seconds = round(time.perf_counter() - start, 1)
    counts = {status: sum(line.status == status for line in found) for status in ("ok", "FAIL", "skipped")}
    if args.json:
        results = [asdict(line) for line in found]
        print(json.dumps({"passed": not counts["FAIL"], "seconds": seconds, "results": results}, indent=2))
    else:
        print(f"{counts['ok']} ok, {counts['FAIL']} failed, {counts['skipped']} skipped, in {seconds} s")
    return 1 if counts["FAIL"] else 0


def _show(line: Line, as_json: bool) -> Line:
    if not as_json:
        print(line, flush=True)
    return line
