"""Processes that hold one provider each and are asked in turn.

A provider alone in its process has its own allocator, compiler state and CUDA graphs; no other one's threads or memory
stand beside it. All of them live at the same time, so that a slow minute of the machine falls on every one: the part
asks one after the other for a few calls, round by round.
"""

from __future__ import annotations

import gc
import math
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor

from convnextv2_fast.bench.settings import one_line
from convnextv2_fast.bench.timing import Run, graphed, watch_for

from ...suite import checks, providers
from .. import naming
from . import children, scale
from .context import Context
from .scale import Subject

PATIENCE = 25.0  # seconds
WARM_CALLS = 3  # torch.compile's CUDA graphs are recorded in the second, and replayed from the third


class Held:
    """The provider inside its process. Its methods are what the part may ask for."""

    def __init__(self, provider: str, context: Context) -> None:
        self.provider, self.context = provider, context
        self.watch = watch_for(context.device)
        self.runs: dict[Subject, Run] = {}
        self.errors: dict[Subject, float] = {}
        self.position = 0
        scale.prepare_process(context)
        torch.backends.cudnn.allow_tf32 = False
        if "autotune" in provider:  # hundreds of kernels to compile for each model, tens for the others
            import torch._inductor.config as inductor  # not sooner: it reads the environment that caches.use sets

            inductor.compile_threads = 5
        if context.dry and not provider.startswith("fast"):
            providers.compile_backend = ""  # one model traced is enough to have run the code

    @property
    def graph(self) -> bool:
        return self.provider == "fast-graph"

    def trace(self, subject: Subject) -> float:
        """Builds, compiles and checks. Returns the error: largest deviation over the largest element."""
        case = subject.case()
        candidate = providers.build("fast" if self.graph else self.provider, case)
        expected = list(candidate.expected())
        self._release()  # compilers try their choices on what is left
        found = checks.difference(list(candidate.outputs()), expected)
        checks.require(found, case.setting.working_dtype, True, f"{case.name}, {self.provider}")
        self.runs[subject], self.errors[subject] = candidate.run, found.max_relative
        self._release()
        return found.max_relative

    def ready(self, subject: Subject) -> dict[str, float | None]:
        """Untimed calls, then seconds of one call, and the memory that they took at the peak, in MiB."""
        # cuDNN chose while others used the GPU too; under another key it chooses once more, now that it is quiet.
        torch.backends.cudnn.allow_tf32 = True
        before = self._memory()
        run = self.runs[subject]
        if self.graph and self.context.device == "cuda":
            run = self._captured(subject, run)
        self.runs[subject] = run
        self.watch.measure(run, 0, WARM_CALLS)
        once = self.watch.measure(run, WARM_CALLS, 1)
        self.position = WARM_CALLS + 1
        peak = None if before is None else (torch.cuda.max_memory_allocated() - before) / 2**20
        return {"once": once, "peak_mib": peak, "rel_error": self.errors[subject]}

    def _captured(self, subject: Subject, run: Run) -> Run:
        """The CUDA graphs, whose result must be what the same calls give when they are launched one by one."""
        case = subject.case()
        replay = graphed(run, case.sets)
        got, want = (_tensors(function(0)) for function in (replay, run))
        found = checks.difference(got, want)
        checks.require(found, case.setting.working_dtype, True, f"{case.name}, {self.provider} beside its launches")
        return replay

    def turn(self, subject: Subject, calls: int) -> float:
        """Seconds of one call, over several, after two untimed ones: the first takes back the memory it needs."""
        run = self.runs[subject]
        gc.collect(1)
        self.watch.measure(run, self.position, 2)
        seconds = self.watch.measure(run, self.position + 2, calls) / calls
        self.position += 2 + calls
        if self.context.device == "cuda" and not self.graph:
            torch.cuda.empty_cache()  # room for the others
        return seconds

    def traced(self, subject: Subject) -> list[tuple[str, str, int, float]]:
        """What the profiler saw of one step: ("gpu" or "cpu", name, calls, seconds) of each kernel and operator."""
        run = self.runs[subject]
        self.watch.measure(run, 0, 2)
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.context.device == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as profiler:
            self.watch.measure(run, 2, 1)
        return list(_events(profiler))

    def drop(self, subject: Subject) -> None:
        """Frees what a case holds."""
        self.runs.pop(
            subject, None
        )  # and its CUDA graphs; those of torch.compile share one pool, which the next reuses
        self._release()

    def _memory(self) -> int | None:
        if self.context.device != "cuda":
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def _release(self) -> None:
        gc.collect()
        if self.context.device == "cuda":
            torch.cuda.empty_cache()


def _tensors(found: object) -> list[Tensor]:
    return [found.clone()] if isinstance(found, Tensor) else [t.clone() for t in found]  # type: ignore[attr-defined]


def _events(profiler: Any) -> Iterator[tuple[str, str, int, float]]:
    for event in profiler.key_averages():
        if getattr(event, "is_user_annotation", False):
            continue  # a range that holds kernels, which are counted themselves
        on_gpu = event.device_type != torch.autograd.DeviceType.CPU
        microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if microseconds > 0:
            yield "gpu" if on_gpu else "cpu", event.key, event.count, microseconds / 1e6


def serve(provider: str, context: Context, pipe: Connection) -> None:
    """The process: answers ("ok", value) or ("error", text) to each (method, arguments), until the pipe is closed."""
    held = Held(provider, context)
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(("ok", getattr(held, method)(*arguments)))
        except Exception as error:
            traceback.print_exc()
            pipe.send(("error", one_line(error)))


@dataclass
class Worker:
    """The part's end of a process."""

    provider: str
    process: BaseProcess
    pipe: Connection
    log: Any

    @property
    def columns(self) -> tuple[str, str]:
        """Provider and mode, as results name them."""
        return naming.published(self.provider)

    def ask(self, method: str, *arguments: Any) -> None:
        self.pipe.send((method, arguments))

    def has_answer(self) -> bool:
        """Whether there is one, or never will be: `answer` will not wait."""
        try:
            return self.pipe.poll()
        except OSError:
            return True

    def answer(self, ends: float) -> Any:
        """What `ask` asked for.

        Raises:
            Lost: the process crashed, or did not answer in time and was ended.
            Refused: it answered that it cannot.
        """
        try:
            if not self.pipe.poll(max(0.0, ends - time.monotonic())):
                children.end(self.process)
                raise Lost("time was up")
            state, value = self.pipe.recv()
        except (EOFError, OSError) as error:
            self.process.join(5)
            raise Lost(children.ending(self.process.exitcode, self.log)) from error
        if state == "error":
            raise Refused(value)
        return value


class Lost(Exception):
    """A worker that is gone."""


class Refused(Exception):
    """A worker that is there, but could not do what it was asked."""


class Crew:
    """Several workers. A worker that is lost, or cannot, is named in the part's notes and left out from then on."""

    def __init__(self, providers_: Sequence[str], context: Context, kind: str) -> None:
        self.context, self.kind = context, kind
        self.workers: list[Worker] = []
        for provider in providers_:
            ours, theirs = children.processes().Pipe()
            log = context.log(f"{kind}-{provider}")
            process = children.start(log, serve, provider, context, theirs)
            theirs.close()
            self.workers.append(Worker(provider, process, ours, log))

    def all(self, method: str, *arguments: Any, ends: float) -> dict[str, Any]:
        """Asks every worker at once, and gives the answers of those that had one, by provider."""
        asked = [worker for worker in self.workers if self.ask(worker, method, *arguments)]
        answers = {worker.provider: self.answer(worker, ends, arguments) for worker in asked}
        return {provider: found[0] for provider, found in answers.items() if found}

    def one(self, provider: str, method: str, *arguments: Any, ends: float) -> Any:
        """Asks one worker. None: it had no answer."""
        for worker in self.workers:
            if worker.provider == provider and self.ask(worker, method, *arguments):
                found = self.answer(worker, ends, arguments)
                return found[0] if found else None
        return None

    def ask(self, worker: Worker, method: str, *arguments: Any) -> bool:
        """Asks a worker, which works through what it is asked in order. Whether it is still there."""
        try:
            worker.ask(method, *arguments)
        except OSError:
            self._lose(worker, children.ending(worker.process.exitcode, worker.log), arguments)
            return False
        return True

    def answer(self, worker: Worker, ends: float, arguments: Sequence[Any]) -> list[Any]:
        """Its next answer, in a list; an empty one if it has none."""
        try:
            return [worker.answer(ends)]
        except Lost as lost:
            self._lose(worker, str(lost), arguments)
        except Refused as refused:
            self.context.say(f"{self._name(worker, arguments)}: {refused}")
        return []

    def _lose(self, worker: Worker, why: str, arguments: Sequence[Any]) -> None:
        self.context.say(f"{self._name(worker, arguments)} and later: {why}")
        self.workers.remove(worker)

    def _name(self, worker: Worker, arguments: Sequence[Any]) -> str:
        batch = next((f", batch {each.batch}" for each in arguments if isinstance(each, Subject)), "")
        return f"{' '.join(worker.columns)}, {self.kind}{batch}"

    def close(self) -> None:
        """Ends all of them."""
        children.end(*(worker.process for worker in self.workers))
        for worker in self.workers:
            worker.pipe.close()
        self.workers.clear()


def patience(context: Context) -> float:
    """Until when a worker may take: one that hangs must not cost the others."""
    return min(context.ends, time.monotonic() + PATIENCE)


def in_turn(
    crew: Crew, subject: Subject, providers_: Sequence[str], once: dict[str, float], *, rounds: int, until: float
) -> dict[str, list[float]]:
    """Rounds in which each provider is asked once, starting with another one each time: seconds of a call, by provider.
    No new round begins after `until`. A provider that fails keeps what it has."""
    seconds: dict[str, list[float]] = {provider: [] for provider in providers_}
    calls = {p: max(1, min(50, math.ceil(0.02 / max(once[p], 1e-6)))) for p in providers_}
    failed: set[str] = set()
    for number in range(rounds):
        if number and time.monotonic() > until:
            break
        names = [p for p in providers_ if p not in failed]
        shift = number % max(1, len(names))
        for provider in (*names[shift:], *names[:shift]):
            answer = crew.one(provider, "turn", subject, calls[provider], ends=patience(crew.context))
            if answer is None:
                failed.add(provider)
            else:
                seconds[provider].append(answer)
    return seconds
