"""One step under the profiler: each kernel and each operator of the host, how often and how long.

Rows: `mode` is the way it ran and, behind a colon, "gpu" or "cpu" and the name. "gpu: all" is the sum over kernels;
"wall" is the step's own time without the profiler. A wall time far above the sum means that the host is what limits.
"""

from __future__ import annotations

import time
from collections import defaultdict

from .. import naming
from ..tidy import noted
from . import scale
from .context import Context
from .scale import Subject
from .workers import Crew

LONGEST = 100  # characters of a kernel's name
CPU_ROWS = 40  # operators of the host that are listed, the slowest
STEPS = 5  # that the wall time is the mean of


def run(context: Context, crews: object = None) -> None:
    """Profiles workers of its own: a process that was profiled may launch more slowly from then on."""
    steps = {kind: scale.batches(kind, context.dry)[0] for kind in ("training", "pretraining", "inference")}
    crews: list[tuple[Subject, Crew]] = []
    begun = time.monotonic()
    try:
        for kind, batch in steps.items():
            peers = [name for name in scale.ids(kind, context.dry) if name.endswith("compile") and "fast" not in name]
            subject = Subject(kind, batch, context.dry)
            crews.append((subject, Crew(["fast", *peers], context, kind)))
        for subject, crew in crews:  # all compile at once: ask everybody before waiting for anybody
            for worker in list(crew.workers):
                crew.ask(worker, "trace", subject)
        patience = context.ends - 0.4 * (context.ends - begun)
        able = [
            (subject, crew, worker.provider)
            for subject, crew in crews
            for worker in list(crew.workers)
            if crew.answer(worker, patience, (subject,))
        ]
        for subject, crew, provider in able:  # nobody compiles any more
            one(context, crew, subject, provider)
    finally:
        for _, crew in crews:
            crew.close()


def one(context: Context, crew: Crew, subject: Subject, provider: str) -> None:
    """The rows of one provider's step."""
    case = subject.case()
    whose, mode = naming.published(provider)
    if context.has(case.what, whose, f"{mode}: wall", subject.batch, subject.precision):
        return
    columns = {"batch": subject.batch, "dtype": subject.precision}
    state = crew.one(provider, "ready", subject, ends=context.ends)
    wall = state and crew.one(provider, "turn", subject, STEPS, ends=context.ends)
    events = wall and crew.one(provider, "traced", subject, ends=context.ends)
    if not events:
        return
    for side, rows in table(events).items():
        total = sum(seconds for _, _, seconds in rows)
        shown = rows if side == "gpu" else rows[:CPU_ROWS]
        for name, calls, seconds in shown:
            context.add(
                case.what, whose, f"{mode}: {side} {name}", ms=1e3 * seconds, note=noted(calls=calls), **columns
            )
        calls = sum(count for _, count, _ in rows)
        context.add(case.what, whose, f"{mode}: {side}: all", ms=1e3 * total, note=noted(calls=calls), **columns)
    context.add(case.what, whose, f"{mode}: wall", ms=1e3 * wall, note=noted(steps=STEPS), **columns)


def table(events: list[tuple[str, str, int, float]]) -> dict[str, list[tuple[str, int, float]]]:
    """Name, calls and seconds by side, the slowest first; names that are alike once they are cut are one row."""
    found: dict[str, dict[str, tuple[int, float]]] = defaultdict(lambda: defaultdict(lambda: (0, 0.0)))
    for side, name, calls, seconds in events:
        short = name.replace("(anonymous namespace)::", "")[:LONGEST]
        before = found[side][short]
        found[side][short] = (before[0] + calls, before[1] + seconds)
    return {
        side: sorted(((name, *sums) for name, sums in rows.items()), key=lambda row: -row[2])
        for side, rows in found.items()
    }
