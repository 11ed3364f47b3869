"""Timing: interleaved rounds over several candidates, medians, wall clock on a CPU and events on a GPU."""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch

Run = Callable[[int], object]  # its argument says which of the prepared input sets to use


def quantile(values: list[float], q: float) -> float:
    """The q-quantile (0..1) with linear interpolation. ValueError without values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass
class Timing:
    """Seconds per call, one entry a round."""

    seconds: list[float] = field(default_factory=list)
    iterations: int = 1  # calls within a round

    @property
    def median(self) -> float:
        return quantile(self.seconds, 0.5)

    def percentiles(self) -> dict[str, float]:
        """Median, 20th and 80th percentile in ms: the columns `ms`, `p20`, `p80` of results."""
        named = {"ms": 0.5, "p20": 0.2, "p80": 0.8}
        return {name: round(1e3 * quantile(self.seconds, q), 9) for name, q in named.items()}

    @property
    def spread(self) -> float:
        """From the 20th to the 80th percentile, relative to the median."""
        return (quantile(self.seconds, 0.8) - quantile(self.seconds, 0.2)) / self.median


def nothing() -> None:
    """What follows a turn where nobody waits for it."""


class Watch(Protocol):
    """Measures the seconds that `calls` calls take together."""

    def measure(self, run: Run, first: int, calls: int) -> float: ...


class CpuWatch:
    """Wall clock."""

    def measure(self, run: Run, first: int, calls: int) -> float:
        start = time.perf_counter()
        for i in range(first, first + calls):
            run(i)
        return time.perf_counter() - start


class CudaWatch:
    """Device events around the calls; the device is idle before and after."""

    def measure(self, run: Run, first: int, calls: int) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        for i in range(first, first + calls):
            run(i)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def watch_for(device: str) -> Watch:
    """The watch of a device type."""
    return CudaWatch() if device == "cuda" else CpuWatch()


def interleaved(
    candidates: Mapping[str, Run],
    *,
    watch: Watch,
    rounds: int,
    warmup: int = 2,
    round_seconds: float = 0.0,
    max_seconds: float = math.inf,
    least: int = 3,
    settle: float = 0.0,
    within: Callable[[str], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    after: Callable[[], object] = nothing,
    results: dict[str, Timing | Exception] | None = None,
) -> dict[str, Timing | Exception]:
    """Times all candidates together: each round runs every one of them once, in an order that rotates.

    A slow minute of the machine thus falls on all of them, and none always follows the same neighbour.

    Args:
        candidates: name to function of the input set's index (counted up call by call, so that inputs rotate).
        rounds: rounds to record.
        warmup: unrecorded calls of each candidate before anything is timed.
        round_seconds: a candidate shorter than this is called several times within its round.
        max_seconds: no new round begins after this, once `least` rounds are recorded.
        settle: seconds of silence before each turn, and then an untimed call. Runtimes let their idle threads spin for
            a while; on a CPU those of the last one would take the cores from the next.
        within: the context of a candidate's turns, by its name; entering it is not timed.
        after: called after each turn.
        results: where to put what is returned, as it comes: an interrupt leaves there what was measured until then.
    Returns:
        For each candidate its timing, or the exception that ended it (the others go on without it).
    """
    results = {} if results is None else results
    calls: dict[str, int] = {}
    for name, run in candidates.items():
        try:
            with within(name):
                if warmup:
                    watch.measure(run, 0, warmup)
                once = watch.measure(run, warmup, 1) if round_seconds else 0.0
        except Exception as error:  # a candidate that fails is a result, not the end of the group
            results[name] = error
            continue
        calls[name] = max(1, math.ceil(round_seconds / once)) if once > 0 else 1
        results[name] = Timing(iterations=calls[name])
    position = dict.fromkeys(calls, warmup + bool(round_seconds))
    began = time.perf_counter()
    collecting = gc.isenabled()
    for number in range(rounds):
        if number >= least and time.perf_counter() - began > max_seconds:
            break
        names = [name for name in calls if isinstance(results[name], Timing)]
        gc.collect(1)  # cycles that autograd left, without walking through everything ever imported
        gc.disable()
        try:
            for name in rotated(names, number):
                try:
                    with within(name):
                        if settle:
                            time.sleep(settle)
                            watch.measure(candidates[name], position[name], 1)  # wakes this one's own threads
                            position[name] += 1
                        spent = watch.measure(candidates[name], position[name], calls[name])
                except Exception as error:
                    results[name] = error
                    continue
                position[name] += calls[name]
                timing = results[name]
                assert isinstance(timing, Timing)
                timing.seconds.append(spent / calls[name])
                after()
        finally:
            if collecting:
                gc.enable()
    return results


def rotated(names: list[str], by: int) -> list[str]:
    """The list, started `by` places later."""
    if not names:
        return []
    by %= len(names)
    return names[by:] + names[:by]


def graphed(run: Run, sets: int) -> Run:
    """`run` captured in CUDA graphs, one for each input set; calling it replays, without launch overhead, and gives
    what that graph writes its result to.

    Raises:
        RuntimeError: what `run` does cannot be captured.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for i in range(3):
            run(i)
    torch.cuda.current_stream().wait_stream(side)
    graphs = []
    for i in range(sets):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = run(i)
        graphs.append((graph, result, run))  # `run` holds the weights and inputs: a graph owns its outputs alone

    def replay(i: int) -> object:
        graph, result, _ = graphs[i % sets]
        graph.replay()
        return result

    return replay


def peak_memory(run: Run, device: str) -> int | None:
    """Bytes that one call allocates at its peak, above what was allocated before it.

    None on a CPU: the process's own figure (ru_maxrss) only ever rises, so it says nothing about one candidate."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run(0)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
