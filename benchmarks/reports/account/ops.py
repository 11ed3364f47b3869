"""Every op at the shapes of the model's four stages, all alternatives that exist, replayed as CUDA graphs: which kernel
is the faster one. The automatic choice is renewed from these rows (:mod:`tools.kernels.prefer`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from convnextv2_fast import UnsupportedInputError, dispatch
from convnextv2_fast.bench import inside
from convnextv2_fast.bench.settings import one_line
from convnextv2_fast.bench.timing import Run, Timing, graphed, interleaved, watch_for
from convnextv2_fast.testing import KERNEL_OPS

from ...suite import checks, depthwise, problems
from ...suite.cases import OpCase, Setting
from .. import naming
from ..tidy import noted
from . import children, correctness, scale
from .context import Context

BATCHES = (128, 256)
GREED = 2.0  # an op may take twice its equal share of what is left: most take less
LIMITS: Mapping[str, Any] = {"rounds": 9, "warmup": 2, "round_seconds": 0.003, "max_seconds": 0.7}
DRY: Mapping[str, Any] = {"rounds": 1, "warmup": 0}
ALONE = "dwconv7x7"  # the depthwise convolution without LayerNorm, beside cuDNN's
FIRST = ("mlp_grn", "dwconv_layer_norm", ALONE, "sparse_dwconv", "patch_conv")  # what a model spends its time in
NAMES = (*FIRST, *(op for op in KERNEL_OPS if op not in FIRST))
CONVOLUTIONS = ("dwconv_layer_norm", "sparse_dwconv")
STRATEGIES = ("materialize", "recompute", "chunked")

Candidates = dict[str, Callable[[], tuple[Run, float]]]  # by provider id: what runs, and its error; checked when built


@dataclass(frozen=True)
class Group:
    """Candidates that are compared. `sets`: inputs that they rotate among, which together do not fit a cache."""

    what: str
    batch: int
    dtype: str
    sets: int
    candidates: Candidates


def run(context: Context) -> None:
    todo = [(name, batch) for batch in batches(context) for name in NAMES]
    jobs = [(f"{name}-b{batch}", one, (name, batch, len(todo) - i, context)) for i, (name, batch) in enumerate(todo)]
    for name, code in children.spread(jobs, log=context.log, ends=context.ends - 1, at_once=1):
        if code != 0:
            context.say(f"{name}: {children.ending(code, context.log(name))}")


def batches(context: Context) -> tuple[int, ...]:
    return (1,) if context.dry else BATCHES


def one(name: str, batch: int, waiting: int, context: Context) -> None:
    """An op at a batch, in its share of the time: `waiting` of them are left, this one counted."""
    scale.prepare_process(context)
    ends = time.monotonic() + min(1.0, GREED / waiting) * context.left()
    for group in groups(name, context, batch):
        if time.monotonic() > ends - 1 and not context.dry:
            context.say(f"{name}: its share of the time ended before {group.what}, batch {group.batch}")
            return
        compare(context, group)


def groups(name: str, context: Context, batch: int) -> Iterator[Group]:
    """What is compared, group by group."""
    dtype = "float32" if context.dry else "bfloat16"
    if name == ALONE:
        for which in depthwise.UNITS:
            for side, c in scale.stages(context):
                alone = depthwise.PassCase(batch, side, c, which, getattr(torch, dtype), context.device)
                sets = 1 if context.dry else max(2, min(8, round(256e6 / alone.work.bytes)))
                yield Group(alone.what, batch, dtype, sets, passes(alone, sets))
        return
    for backward in (False, True):
        for shape in scale.op_shapes(name, context, batch):
            case = OpCase(name, shape, Setting(context.device, dtype, context.dry), backward)
            yield Group(case.what, batch, dtype, case.sets, alternatives(case, context))


def passes(case: depthwise.PassCase, sets: int) -> Candidates:
    """The convolution alone: torch's and ours."""

    def build(provider: str) -> tuple[Run, float]:
        with torch.inference_mode():
            run, error = case.candidate(provider, sets)

            def call(i: int) -> object:
                with torch.inference_mode():
                    return run(i)

            return call, error

    able = [name for name in depthwise.providers(case.device) if not depthwise.why_not(name, case.device, case.dtype)]
    return {name: (lambda name=name: build(name)) for name in able}


def alternatives(case: OpCase, context: Context) -> Candidates:
    """Our backends, and within them the kernels and strategies that there are a choice of."""
    found: Candidates = {}
    for backend in correctness.backends(context):
        if not any(each.backend == backend for each in dispatch.implementations(case.op)):
            continue
        if correctness.forbidden(context, case.op, backend, case.setting.precision):
            continue
        if backend == "cuda" and case.op in CONVOLUTIONS:
            for kernel in ("fma", "mma"):
                found[f"fast-cuda-{kernel}"] = builder(case, backend, kernel=kernel)
        elif backend == "triton" and case.op == "mlp_grn":
            for strategy in STRATEGIES:
                found[f"fast-triton-{strategy}"] = builder(case, backend, strategy=strategy)
        else:
            found[f"fast-{backend}"] = builder(case, backend)
    return found


def builder(case: OpCase, backend: str, kernel: str = "", **extra: Any) -> Callable[[], tuple[Run, float]]:
    """`kernel`: which of the convolution's, "fma" or "mma"; `extra` goes to the op."""

    def with_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            inside.use_dwconv_kernel(kernel or "auto")
            return function(*arguments, **named)

        return call

    def build() -> tuple[Run, float]:
        candidate = case.candidate(with_kernel(problems.public(case.op)), backend=backend, **extra)
        with checks.poisoned(case.setting.device):
            found = checks.difference(list(with_kernel(candidate.outputs)()), list(candidate.expected()))
        checks.require(found, case.setting.working_dtype, False, f"{case.name}, {backend}")
        return with_kernel(candidate.run), found.max_relative

    return build


def tried(
    context: Context, group: Group, name: str, build: Callable[[], tuple[Run, float]]
) -> tuple[Run, float] | None:
    """What a candidate builds. None: it cannot, and the part says why, or does not exist here."""
    try:
        return build()
    except UnsupportedInputError:
        return None
    except Exception as error:
        context.say(f"{group.what}, batch {group.batch}, {' '.join(naming.published(name))}: {one_line(error)}")
        return None


def compare(context: Context, group: Group) -> None:
    """Builds, captures and times a group, interleaved; a row for each candidate."""
    runs: dict[str, Run] = {}
    errors: dict[str, float] = {}
    replayed = context.device == "cuda"
    columns = {name: naming.published(name, graph=replayed) for name in group.candidates}
    for name, build in group.candidates.items():
        if context.has(group.what, *columns[name], group.batch, group.dtype):
            continue
        found = tried(context, group, name, build)
        if found is None:
            continue
        run, errors[name] = found
        try:
            runs[name] = graphed(run, group.sets) if replayed else run
        except Exception as error:
            context.say(f"{group.what}, batch {group.batch}, {' '.join(columns[name])}, captured: {one_line(error)}")
    limits = DRY if context.dry else LIMITS
    for name, timing in interleaved(runs, watch=watch_for(context.device), **limits).items():
        if not isinstance(timing, Timing):
            context.say(f"{group.what}, batch {group.batch}, {' '.join(columns[name])}: {one_line(timing)}")
            continue
        figures = timing.percentiles() | {"rel_error": errors[name], "note": noted(rounds=len(timing.seconds))}
        context.add(group.what, *columns[name], batch=group.batch, dtype=group.dtype, **figures)
    runs.clear()
    if replayed:
        torch.cuda.empty_cache()
