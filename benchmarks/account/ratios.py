"""Whole models, ours and the peers', in turn: inference, training steps, pre-training steps.

Every provider has a process of its own. First all of them compile and check, then, with the processors quiet again, one
case after the other is timed.
"""

from __future__ import annotations

import time

from .._timing import Timing
from ..tidy import noted
from . import correctness, scale
from .context import Context
from .scale import Subject
from .workers import Crew, in_turn

ROUNDS, SECONDS = 9, 8.0  # of each case
KINDS = ("training", "pretraining", "inference")


def run(context: Context) -> None:
    if correctness.any_forbidden(context):
        context.say("an op is wrong (see correctness): a model's own check decides whether it has a figure")
    begun = time.monotonic()
    crews: dict[str, Crew] = {}
    try:
        for kind in KINDS:
            crews[kind] = Crew(scale.ids(kind, context.dry), context, kind)
        traced = trace(context, crews, begun + 0.6 * (context.ends - begun))
        cases = [Subject(kind, batch, context.dry) for kind in KINDS for batch in scale.batches(kind, context.dry)]
        for number, subject in enumerate(cases):
            share = (context.ends - time.monotonic()) / (len(cases) - number)
            if share < 1.5 and not context.dry:
                context.say(f"{subject.kind}, batch {subject.batch}: no time was left")
                continue
            able = [name for name in scale.ids(subject.kind, context.dry) if (name, subject) in traced]
            one(context, crews[subject.kind], subject, able, min(SECONDS, share))
    finally:
        for crew in crews.values():
            crew.close()


def trace(context: Context, crews: dict[str, Crew], ends: float) -> set[tuple[str, Subject]]:
    """Has every provider compile and check every batch, all at once; which ones did."""
    done: set[tuple[str, Subject]] = set()
    asked: list[tuple[Crew, Subject]] = []
    for kind, crew in crews.items():
        for batch in scale.batches(kind, context.dry):
            subject = Subject(kind, batch, context.dry)
            for worker in list(crew.workers):
                crew.ask(worker, "trace", subject)  # queued in its pipe: it works through them
            asked.append((crew, subject))
    for crew, subject in asked:
        for worker in list(crew.workers):
            if crew.answer(worker, ends, (subject,)):
                done.add((worker.provider, subject))
    return done


def patience(context: Context) -> float:
    """Until when a provider may take to get ready: one that hangs must not cost the others."""
    return min(context.ends, time.monotonic() + 25)


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
