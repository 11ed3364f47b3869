"""One group of candidates: build, check, time together. Used by the pytest suite and `make bench`."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from convnextv2_fast import UnsupportedInputError
from convnextv2_fast.bench.peers import Unavailable
from convnextv2_fast.bench.settings import one_line
from convnextv2_fast.bench.timing import Run, Timing, graphed, interleaved, peak_memory, watch_for

from . import checks, providers
from .cases import Candidate, Case
from .checks import CheckFailed
from .roofline import ceilings


@dataclass
class Outcome:
    """What became of one provider: "ok" with a timing, "skipped" or "failed" with a reason."""

    status: str
    reason: str = ""
    timing: Timing | None = None
    info: dict[str, Any] = field(default_factory=dict)
    wrong: bool = False  # failed because its result is wrong


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int = 15
    warmup: int = 2
    round_seconds: float = 0.005
    max_seconds: float = 20.0
    graph: bool = False  # CUDA graph replay where it can be captured
    settle: float = 0.02  # on a CPU, see interleaved()

    @classmethod
    def smoke(cls) -> Effort:
        """One round: only that it runs."""
        return cls(rounds=1, warmup=0, round_seconds=0.0, max_seconds=math.inf, settle=0.0)


def checked(name: str, candidate: Candidate, case: Case) -> dict[str, float]:
    """Errors of the candidate against its reference; CheckFailed when above the tolerance."""
    device = case.setting.device
    expected = candidate.expected()
    if name.startswith("fast-"):
        with warnings.catch_warnings(), checks.poisoned(device):
            warnings.simplefilter("ignore")  # "no deterministic implementation": irrelevant to the check
            outputs = candidate.outputs()
    else:
        outputs = candidate.outputs()
    found = checks.difference(outputs, expected)
    checks.require(found, case.setting.working_dtype, case.is_model, f"{case.name}, {name}")
    return {"max_relative_error": found.max_relative, "max_absolute_error": found.max_absolute}


def uncompiled(error: Exception) -> Outcome | None:
    """A skip, if it is torch.compile that cannot work on this machine: no compiler, or one that it calls wrongly."""
    if not type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
        return None
    why = f"torch.compile fails here: {one_line(error)}"
    if " " in torch.__path__[0]:
        why += " (torch lies under a path with a space, which it does not quote when it calls the compiler)"
    return Outcome("skipped", why)


def significant(value: float) -> float:
    """Rounded to four significant digits: no measurement has more."""
    return float(f"{value:.4g}")


def figures(case: Case, seconds: float, device_peak: int | None) -> dict[str, float | None]:
    """Rates of a median time, by the case's own floor."""
    floor = ceilings(case.setting.device, case.setting.working_dtype).floor(case.work)
    found: dict[str, float | None] = {
        "gb_per_s": significant(case.work.bytes / seconds / 1e9),
        "gflop_per_s": significant(case.work.flops / seconds / 1e9),
        "roofline_share": significant(floor / seconds),
    }
    if case.images:
        found["images_per_s"] = significant(case.images / seconds)
    if device_peak is not None:
        found["peak_mib"] = round(device_peak / 2**20, 1)
    return found


def compiled(name: str) -> bool:
    """Whether a provider is torch.compile's."""
    return "compile" in name or "autotune" in name


def measure(case: Case, wanted: Iterable[str], effort: Effort) -> dict[str, Outcome]:
    """Builds and checks every wanted provider, then times those that passed, interleaved."""
    outcomes: dict[str, Outcome] = {}
    runs: dict[str, Run] = {}
    errors: dict[str, dict[str, float]] = {}
    device = case.setting.device
    for name in wanted:
        began = time.monotonic()
        try:
            candidate = providers.build(name, case)
            errors[name] = checked(name, candidate, case)
            errors[name]["prepare_s"] = round(time.monotonic() - began, 2)  # build, compile, check
            runs[name] = candidate.run
            if effort.graph and device == "cuda" and not case.backward and not compiled(name):
                runs[name] = graphed(candidate.run, case.sets)
                errors[name]["replayed"] = True
        except (Unavailable, UnsupportedInputError) as reason:
            outcomes[name] = Outcome("skipped", str(reason))
        except CheckFailed as wrong:
            outcomes[name] = Outcome("failed", str(wrong), wrong=True)
        except Exception as error:  # a peer that fails is a row of the table, not the end of it
            outcomes[name] = uncompiled(error) or Outcome("failed", one_line(error))
    timings = interleaved(
        runs,
        watch=watch_for(device),
        rounds=effort.rounds,
        warmup=effort.warmup,
        round_seconds=effort.round_seconds,
        max_seconds=effort.max_seconds,
        settle=effort.settle if device == "cpu" else 0.0,
    )
    for name, timing in timings.items():
        if isinstance(timing, Exception):
            outcomes[name] = Outcome("failed", one_line(timing))
            continue
        rates = figures(case, timing.median, peak_memory(runs[name], device))
        outcomes[name] = Outcome("ok", timing=timing, info=errors[name] | rates)
    if any(map(compiled, runs)):
        torch.compiler.reset()
    return outcomes
