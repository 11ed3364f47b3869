"""The process that measures one provider alone on a CPU: it reads one request, answers with one line, and ends.

The request is a JSON object on stdin. It names a function, `module:function`, that builds the provider, and a task:
"check" compares its result with the reference, "time" times calls, "serve" counts the calls of several threads. The
answer is a JSON object on stdout. Whatever libraries print goes to stderr. :mod:`.alone` starts these processes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..dispatch import UnsupportedInputError
from .peers import Unavailable
from .settings import one_line, threads
from .timing import CpuWatch, Run, interleaved

Answer = dict[str, Any]
READY = "ready"  # the line before the answer of "serve": the process waits until it is told to go


class Failed(Exception):
    """A provider that cannot be measured; the message says all."""


class WrongResult(Failed):
    """Its result differs from the reference: it gets no number."""


@dataclass(frozen=True)
class Subject:
    """A provider, built.

    Attributes:
        run: one call; its argument says which of the prepared inputs to use.
        check: compares a result with the reference, and returns what is to be told of it (JSON values). Raises
            :class:`Failed`. It must not be called before a measurement, but in a process of its own.
        within: the context that `run` needs, for instance a backend.
    """

    run: Run
    check: Callable[[], dict[str, Any]]
    within: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


@dataclass(frozen=True)
class Turn:
    """How much one process measures.

    Attributes:
        warmup: untimed calls, at least; one more settles how many calls make a round.
        warm_seconds: further untimed calls follow until so many seconds have passed.
        rounds: times taken, at most. A time is one call, or as many as fill `round_seconds`.
        max_seconds: no new round begins after this, once `least` rounds are recorded.
    """

    warmup: int = 1
    warm_seconds: float = 0.3
    rounds: int = 15
    round_seconds: float = 0.02
    max_seconds: float = 2.5
    least: int = 1


def warm(subject: Subject, turn: Turn) -> None:
    """Makes the untimed calls."""
    until = time.perf_counter() + turn.warm_seconds
    with subject.within():
        for i in range(turn.warmup):
            subject.run(i)
        while time.perf_counter() < until:
            subject.run(0)


def timed(subject: Subject, turn: Turn) -> Answer:
    """Seconds per call, one number a round, and the calls that make a round."""
    warm(subject, turn)
    found = interleaved(
        {"": subject.run},
        watch=CpuWatch(),
        rounds=turn.rounds,
        warmup=0,
        round_seconds=turn.round_seconds,
        max_seconds=turn.max_seconds,
        least=turn.least,
        within=lambda _: subject.within(),
    )[""]
    if isinstance(found, Exception):
        raise found
    return {"seconds": found.seconds, "iterations": found.iterations}


def served(subject: Subject, turn: Turn, callers: int, go: Callable[[], None]) -> Answer:
    """The calls that `callers` Python threads finish on one provider, and the seconds until the last one finished.

    `go` returns when the clock may start: other processes serve at the same time."""
    warm(subject, turn)
    counts = [0] * callers
    failed: list[Exception] = []
    begin = threading.Barrier(callers + 1)

    def call(number: int) -> None:
        try:
            with subject.within():
                subject.run(number)  # what a thread keeps for itself is made here
                begin.wait()
                while time.perf_counter() < until:
                    subject.run(number)
                    counts[number] += 1
        except Exception as error:
            failed.append(error)
            begin.abort()

    until = float("inf")
    crew = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in crew:
        thread.start()
    while begin.n_waiting < callers and not begin.broken:
        time.sleep(0.01)
    go()
    start = time.perf_counter()
    until = start + turn.max_seconds
    with contextlib.suppress(threading.BrokenBarrierError):
        begin.wait()
    for thread in crew:
        thread.join()
    if failed:
        raise failed[0]
    return {"calls": sum(counts), "seconds": time.perf_counter() - start}


def answer(request: Mapping[str, Any], go: Callable[[], None] = lambda: None) -> Answer:
    """Does what a request asks for. An error is an answer too: `error`, and `kind` "unavailable", "wrong" or
    "failed"."""
    try:
        with threads(request["threads"]):
            module, _, function = request["subject"].partition(":")
            build = getattr(importlib.import_module(module), function)
            subject: Subject = build(Path(request["folder"]), **request["arguments"])
            turn = Turn(**request.get("turn", {}))
            if request["task"] == "check":
                return subject.check()
            if request["task"] == "time":
                return timed(subject, turn)
            return served(subject, turn, request["callers"], go)
    except (Unavailable, UnsupportedInputError) as reason:
        return {"error": str(reason), "kind": "unavailable"}
    except Failed as failed:
        return {"error": str(failed), "kind": "wrong" if isinstance(failed, WrongResult) else "failed"}
    except Exception as error:  # a provider that fails is a row of the table
        return {"error": one_line(error, 1), "kind": "failed"}


def main() -> None:
    """Reads the request and writes the answer."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer

    def go() -> None:
        answers.write(READY + "\n")
        sys.stdin.readline()

    found = answer(json.loads(sys.stdin.readline()), go)
    answers.write(json.dumps(found) + "\n")
    answers.flush()
    os._exit(0)  # threads of runtimes that are still there must not delay the next process
