"""The parts of the account, in order, and the time that each may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from . import correctness, counters, device_tests, host, ops, ratios, sanitizer, traces, warm

TOTAL = 560.0  # seconds of wall time, everything
FINISH = 12.0  # kept for the caches, the logs and the table


@dataclass(frozen=True)
class Part:
    """`most`: the seconds it may take; `least`: those that are kept free for it while earlier parts run. `run` takes
    the context, and with `crews` the workers."""

    name: str
    least: float
    most: float
    run: Callable[..., None]
    answers: str
    on_request: bool = False
    crews: bool = False  # it runs in one process with the parts beside it that say so too, and shares workers with them


PARTS = (
    Part("host", 12, 20, host.run, "how fast the host, the memory and the matrix units of this machine are"),
    Part("correctness", 25, 45, correctness.run, "whether every op is right in every dtype, and repeats bit for bit"),
    Part("compile", 130, 190, warm.run, "nothing: it compiles, so that no later part waits", crews=True),
    Part("profile", 40, 65, traces.run, "which kernels a step consists of, and the host's part", crews=True),
    Part("ratios", 85, 105, ratios.run, "how whole models compare, ours and the peers'", crews=True),
    Part("ops", 50, 80, ops.run, "which kernel of an op is the faster one, at every stage"),
    Part("counters", 45, 90, counters.run, "what limits each kernel"),
    Part("sanitizer", 0, 60, sanitizer.run, "whether the kernels touch memory that is not theirs, or race"),
    Part("tests", 60, 300, device_tests.run, "whether the device tests pass", on_request=True),
)
NAMES = tuple(part.name for part in PARTS)


def together(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """The parts that run in one process, group by group."""
    group: list[Part] = []
    for part in parts:
        if group and not (part.crews and group[-1].crews):
            yield group
            group = []
        group.append(part)
    if group:
        yield group


class Budget:
    """The wall clock of the whole account."""

    def __init__(self, total: float, parts: Iterable[Part], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self.ends = clock, clock() + total
        self._parts = tuple(parts)

    def left(self) -> float:
        """Seconds left in all."""
        return max(0.0, self.ends - self._clock())

    def slice(self, part: Part) -> float:
        """Seconds that a part may take now, leaving what is kept for those after it and for the end."""
        after = self._parts[self._parts.index(part) + 1 :]
        kept = FINISH + sum(other.least for other in after)
        return max(0.0, min(part.most, self.left() - kept))
