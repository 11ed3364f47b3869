"""Providers measured on a CPU, each alone in a process of its own, one process after the other.

In one process, the threads of a runtime still spin when the next one's turn begins, or must be woken beside the next
one's: a runtime with threads of its own then pays for its neighbours. So every provider gets a process for its check,
and one for each turn. The turns go round, and each begins with another provider: a slow minute of the machine falls on
all of them. While a process measures, this one only waits. On GPUs `bench` measures all rows in one process instead:
they queue on one device, whose clock (events) does not see the host's threads, and starting contexts takes seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from .neighbour import busy
from .timing import Timing, quantile, rotated
from .worker import READY, Answer, Turn

_START = [sys.executable, "-c", "from convnextv2_fast.bench.worker import main; main()"]


@dataclass(frozen=True)
class Contender:
    """A provider that a worker can build: `subject` is the `module:function` that returns a :class:`.worker.Subject`;
    it takes the folder that all workers of a group share, and `arguments` (JSON values) by name."""

    subject: str
    arguments: Mapping[str, Any]

    def request(self, task: str, folder: Path, **more: Any) -> dict[str, Any]:
        """What a worker reads."""
        common = {"subject": self.subject, "arguments": dict(self.arguments), "folder": str(folder)}
        return {**common, "task": task, "threads": torch.get_num_threads(), **more}


@dataclass
class Result:
    """What became of a contender.

    Attributes:
        info: what its check told.
        timing: seconds per call, the median of each turn; no times if it was not measured.
        error: why there are no times; `kind` is "unavailable", "wrong" or "failed".
    """

    info: dict[str, Any] = field(default_factory=dict)
    timing: Timing = field(default_factory=Timing)
    error: str | None = None
    kind: str = ""

    def fail(self, answer: Answer) -> None:
        """Takes over an error. The times of earlier turns go: a provider that fails has no number."""
        self.error, self.kind, self.timing = answer["error"], answer["kind"], Timing()


def _environment() -> dict[str, str]:
    """A worker imports what this process would, and nothing that merely lies in the current folder. torch.compile
    starts no processes of its own there: they would still exist while the clock runs."""
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    return os.environ | {"PYTHONPATH": paths, "PYTHONSAFEPATH": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}


class _Worker:
    """A worker process. What it and its libraries say goes to a file: a pipe that nobody reads would stop it."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed by end)
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.said}
        self.process = subprocess.Popen(_START, text=True, env=_environment(), **pipes)
        self.tell(json.dumps(request))

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died already: its exit code says more
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def hear(self) -> str:
        """Its next line; "" if it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def answer(self) -> Answer:
        """Its last line; an error if it dies instead."""
        line = self.hear()
        if line.startswith("{"):
            found: Answer = json.loads(line)
            return found
        code = self.process.wait()
        self.said.seek(0)
        last = (self.said.read().strip().splitlines() or ["it said nothing"])[-1]
        return {"error": f"its process ended with code {code}: {last[:200]}", "kind": "failed"}

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.said.close()


def ask(request: Mapping[str, Any]) -> Answer:
    """Starts a worker, waits, and returns its answer."""
    worker = _Worker(request)
    try:
        return worker.answer()
    finally:
        worker.end()


def ask_together(requests: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """The same for "serve". All workers begin to count when all are ready; if one fails, none does."""
    workers: list[_Worker] = []
    try:
        workers += [_Worker(request) for request in requests]
        for worker in workers:
            line = worker.hear()
            if line.startswith("{"):
                return [json.loads(line)]
            if line.strip() != READY:
                return [worker.answer()]
        for worker in workers:
            worker.tell("go")
        return [worker.answer() for worker in workers]
    finally:
        for worker in workers:
            worker.end()


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """What the workers of one group share: the reference, exported models. It is gone after the block."""
    with tempfile.TemporaryDirectory(prefix="convnextv2_fast-") as path:
        yield Path(path)


def in_turn(
    contenders: Mapping[str, Contender],
    shared: Path,
    *,
    turns: int,
    turn: Turn,
    neighbour: bool = False,
    after: Callable[[], object] = lambda: None,
    results: dict[str, Result] | None = None,
) -> dict[str, Result]:
    """Checks each contender, then measures those that passed, turn by turn.

    Args:
        contenders: by name.
        shared: the folder that their workers share.
        turns: processes that time each contender.
        turn: what one of them does.
        neighbour: a busy process runs beside them while they are timed.
        after: called after each process.
        results: where to put what is returned, as it comes: an interrupt leaves there what was measured until then.
    """
    results = {} if results is None else results
    for name, contender in contenders.items():
        result = results[name] = Result()
        answer = ask(contender.request("check", shared))
        if "error" in answer:
            result.fail(answer)
        else:
            result.info = answer
        after()
    with busy() if neighbour else contextlib.nullcontext():
        for number in range(turns):
            for name in rotated([name for name in contenders if results[name].error is None], number):
                answer = ask(contenders[name].request("time", shared, turn=asdict(turn)))
                if "error" in answer:
                    results[name].fail(answer)
                else:
                    results[name].timing.seconds.append(quantile(answer["seconds"], 0.5))
                    results[name].timing.iterations = answer["iterations"]
                after()
    return results


def throughput(
    contender: Contender, shared: Path, *, processes: int, threads: int, callers: int, turn: Turn
) -> float | str:
    """Calls per second of all processes together, each with so many threads for torch and so many Python threads that
    call; or the error of one."""
    request = contender.request("serve", shared, turn=asdict(turn), callers=callers)
    answers = ask_together([{**request, "threads": threads}] * processes)
    for answer in answers:
        if "error" in answer:
            return str(answer["error"])
    return sum(answer["calls"] / answer["seconds"] for answer in answers)
