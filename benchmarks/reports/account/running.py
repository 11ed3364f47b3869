"""Runs the parts, each in a process of its own, and those that share workers in one. There too a part that crashes or
hangs costs itself alone: another process goes on behind it."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from convnextv2_fast.bench.settings import one_line

from .. import tidy
from . import children, page, plan
from .context import Context
from .crews import Crews
from .page import Ended
from .plan import Budget, Part

SHORTEST = 5.0  # seconds: with less a part is not begun
LATE = 2.0  # seconds after its time at which a part is ended
SETTLE = 10.0  # seconds that a process may take to begin, beyond its imports, and to end behind its last part
PHASES = "phases.txt"


def phases(parts: Sequence[Part], context: Context, budget: Budget) -> None:
    """What the process of one part runs, or of some that share workers. It says when each begins, until when it may
    run, and when it ends; a part that raises does not keep the next from running."""
    crews = Crews()
    for part in parts:
        here = context.of(part.name, budget.slice(part))
        note_phase(context, part.name, "begun", here.ends)
        try:
            part.run(here, crews) if part.crews else part.run(here)
            note_phase(context, part.name, "done")
        except Exception as error:
            traceback.print_exc()
            here.say(one_line(error))
            note_phase(context, part.name, "crashed")
    crews.close()


def note_phase(context: Context, part: str, what: str, ends: float = 0.0) -> None:
    with (context.work / PHASES).open("a") as file:
        file.write(f"{part} {what} {time.monotonic()} {ends}\n")


def noted_phases(context: Context) -> dict[str, dict[str, tuple[float, float]]]:
    """By part: what was noted ("begun", "done", "crashed"), when, and until when it may run."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    text = (context.work / PHASES).read_text() if (context.work / PHASES).exists() else ""
    for line in text[: text.rfind("\n") + 1].splitlines():
        part, what, at, ends = line.split()
        found.setdefault(part, {})[what] = (float(at), float(ends))
    return found


def run(parts: Sequence[Part], context: Context, budget: Budget) -> list[Ended]:
    """Runs parts in one process, and says how those ended that began: all, or those up to one that had to be ended or
    took the process with it."""
    (context.work / PHASES).unlink(missing_ok=True)
    log = context.of(parts[0].name, 0).log("part")
    before = {row.key for row in tidy.readable(context.rows)}
    process = children.start(log, phases, parts, context, budget, group=True)
    try:
        while process.exitcode is None and time.monotonic() < until(parts, noted_phases(context), budget):
            time.sleep(0.05)
        code = process.exitcode
    finally:
        children.end(process, group=True)
    return [ended(name, said, code, context, log, before) for name, said in noted_phases(context).items()] or [
        Ended(parts[0].name, "crashed", 0.0, 0, children.ending(code, log))
    ]


def until(parts: Sequence[Part], noted: dict[str, dict[str, tuple[float, float]]], budget: Budget) -> float:
    """Until when the process may run, as things stand."""
    running = [said["begun"][1] + LATE for said in noted.values() if len(said) == 1]
    if not running and len(noted) == len(parts):
        running = [max(at for said in noted.values() for at, _ in said.values()) + SETTLE]
    return min([budget.ends - plan.FINISH + LATE, *running])


def ended(
    part: str, said: dict[str, tuple[float, float]], code: int | None, context: Context, log: Path, before: set[Any]
) -> Ended:
    """How a part ended, from what was noted of it."""
    here = replace(context, part=part)
    outcome = "done" if "done" in said else "time was up" if code is None and "crashed" not in said else "crashed"
    last = max(at for at, _ in said.values()) if len(said) > 1 else time.monotonic()
    notes = here.said() + ([children.ending(code, log)] if outcome == "crashed" and "crashed" not in said else [])
    rows = sum(row.key not in before and page.belongs(row, part) for row in tidy.readable(context.rows))
    return Ended(
        part,
        outcome,
        round(last - said["begun"][0], 1),
        rows,
        "; ".join(sorted(notes, key=lambda note: not note.startswith("RED")))[:2000],
    )


def account(
    context: Context,
    wanted: Sequence[Part],
    total: float,
    before: Sequence[Ended],
    after: Callable[[], object] = lambda: None,
) -> list[Ended]:
    """Runs the parts in order. How they ended is on disk after each; `after` clears up behind each process."""
    found = {each.part: each for each in before}
    budget = Budget(total, wanted)
    for group in plan.together(wanted):
        while group:
            seconds = budget.slice(group[0])
            if seconds < min(group[0].most, SHORTEST):
                why = f"{seconds:.0f} s of {total:.0f} were left for it"
                found[group[0].name] = Ended(group[0].name, "not begun", 0.0, 0, why)
                group = group[1:]
            else:
                for part in group:
                    print(f"== {part.name}, up to {budget.slice(part):.0f} s: {part.answers}", flush=True)
                for each in run(group, context, budget):
                    found[each.part] = each
                    group = [part for part in group if part.name != each.part]
                after()
            with contextlib.suppress(OSError):  # a full disk: what is there stays
                page.write_parts(context.parts, found.values())
    return list(found.values())
