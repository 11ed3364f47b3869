"""The workers of whole models, which two parts share: one has them compile, the other has them timed.

Tracing a model is Python, which no cache saves: workers that have done it stay, and wait for their turn.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from . import scale
from .context import Context
from .scale import Subject
from .workers import Crew, Worker

KINDS = ("training", "pretraining", "inference")  # the longest to compile first


@dataclass
class Task:
    """What one worker has still to compile."""

    crew: Crew
    worker: Worker
    waiting: list[Subject]
    pending: Subject | None = None
    begun: float = 0.0
    took: float = 0.0  # seconds, of the one before

    def step(self, traced: set[tuple[str, Subject]], ends: float) -> bool:
        """Takes an answer, or asks for the next; whether there is more to come."""
        now = time.monotonic()
        if self.pending is not None:
            if now < ends and not self.worker.has_answer():
                return True
            if self.crew.answer(self.worker, ends, (self.pending,)):
                traced.add((self.worker.provider, self.pending))
            self.pending, self.took = None, now - self.begun
        if self.worker not in self.crew.workers or not self.waiting:
            return False
        if now + self.took >= ends:  # a worker that is ended in the middle loses what it has compiled before
            left_out = ", ".join(str(subject.batch) for subject in self.waiting)
            self.crew.context.say(
                f"{' '.join(self.worker.columns)}, {self.crew.kind}: no time to compile batch {left_out}"
            )
            return False
        self.pending, self.begun = self.waiting.pop(0), now
        return self.crew.ask(self.worker, "trace", self.pending)


@dataclass
class Crews:
    """All workers, by kind of pass. They start when they are first needed."""

    crews: dict[str, Crew] = field(default_factory=dict)
    traced: set[tuple[str, Subject]] = field(default_factory=set)

    def compiled(self, context: Context, ends: float) -> None:
        """Has every provider compile and check every batch, all at once, until `ends`; only once."""
        if not self.crews:
            self.crews = {kind: Crew(scale.ids(kind, context.dry), context, kind) for kind in KINDS}
            tasks = [
                Task(crew, worker, [Subject(kind, batch, context.dry) for batch in scale.batches(kind, context.dry)])
                for kind, crew in self.crews.items()
                for worker in crew.workers
            ]
            while tasks:
                tasks = [task for task in tasks if task.step(self.traced, ends)]
                time.sleep(0.02)
        for crew in self.crews.values():
            crew.context = context

    def able(self, subject: Subject) -> list[str]:
        """The providers that have compiled a case, and are right."""
        return [name for name in scale.ids(subject.kind, subject.dry) if (name, subject) in self.traced]

    def close(self) -> None:
        for crew in self.crews.values():
            crew.close()
        self.crews = {}
