"""Whole models, ours and the peers', in turn: inference, training steps, pre-training steps.

Every provider has a process of its own. When all of them have compiled and checked what they run, and the processors
are quiet again, one case after the other is timed.
"""

from __future__ import annotations

import time

from convnextv2_fast.bench.timing import Timing

from ..tidy import noted
from . import correctness, scale
from .context import Context
from .crews import KINDS, Crews
from .scale import Subject
from .workers import Crew, in_turn, patience

ROUNDS, SECONDS = 9, 8.0  # of each case


def run(context: Context, crews: Crews) -> None:
    if correctness.any_forbidden(context):
        context.say("an op is wrong (see correctness): a model's own check decides whether it has a figure")
    crews.compiled(context, time.monotonic() + 0.6 * context.left())
    cases = [Subject(kind, batch, context.dry) for kind in KINDS for batch in scale.batches(kind, context.dry)]
    for number, subject in enumerate(cases):
        share = context.left() / (len(cases) - number)
        if share < 1.5 and not context.dry:
            context.say(f"{subject.kind}, batch {subject.batch}: no time was left")
            continue
        one(context, crews.crews[subject.kind], subject, crews.able(subject), min(SECONDS, share))
        if not any(later.kind == subject.kind for later in cases[number + 1 :]):
            crews.crews[subject.kind].close()  # and its graphs' memory


def one(context: Context, crew: Crew, subject: Subject, able: list[str], seconds: float) -> None:
    """Times one case, and writes a row for each provider."""
    case = subject.case()
    until = time.monotonic() + seconds
    columns = {"batch": subject.batch, "dtype": subject.precision}
    missing = [
        worker
        for worker in crew.workers
        if worker.provider in able
        and not context.has(case.what, *worker.columns, subject.batch, subject.precision, subject.kind)
    ]
    if not missing:
        return
    states = {w.provider: crew.one(w.provider, "ready", subject, ends=patience(context)) for w in missing}
    states = {provider: state for provider, state in states.items() if state}
    once = {provider: state["once"] for provider, state in states.items()}
    rounds = 1 if context.dry else ROUNDS
    found = in_turn(crew, subject, list(states), once, rounds=rounds, until=until)
    for worker in missing:
        times = found.get(worker.provider)
        if not times:
            continue
        state = states[worker.provider]
        figures = {"peak_mib": state["peak_mib"], "rel_error": state["rel_error"], "note": noted(rounds=len(times))}
        context.add(case.what, *worker.columns, **Timing(times).percentiles(), **figures, **columns, part=subject.kind)
    crew.all("drop", subject, ends=patience(context))
