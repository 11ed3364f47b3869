"""Every op in every dtype, at six shapes, forward and all gradients, against float64; twice, which must give the same
bits. What fails here yields no figure later."""

from __future__ import annotations

import contextlib
import os
import warnings

import torch

from convnextv2_fast import UnsupportedInputError, dispatch
from convnextv2_fast.bench.settings import one_line
from convnextv2_fast.testing import KERNEL_OPS

from ...suite import checks, problems
from ...suite.cases import OpCase, Setting
from .. import naming
from . import children, scale
from .context import Context

DTYPES = ("bfloat16", "float16", "float32")
RED = "red.txt"


def backends(context: Context) -> tuple[str, ...]:
    """Those whose kernels are ours on this device."""
    return ("cpu",) if context.device == "cpu" else ("cuda", "triton")


def run(context: Context) -> None:
    jobs = []
    for backend in backends(context):
        for op in KERNEL_OPS:
            if any(each.backend == backend for each in dispatch.implementations(op)):
                jobs.append((f"{op}-{backend}", one, (op, backend, context)))
    at_once = 2 if context.dry else max(2, (os.cpu_count() or 2) - 2)
    for name, code in children.spread(jobs, log=context.log, ends=context.ends - 1, at_once=at_once):
        if code != 0:
            context.say(f"{name.replace('-', ' on ')}: {children.ending(code, context.log(name))}")
            if code is not None:
                forbid(context, *name.split("-"), dtype="*")


def one(op: str, backend: str, context: Context) -> None:
    """One op on one backend. bfloat16 first: it is what is measured later."""
    scale.prepare_process(context)
    torch.backends.cudnn.allow_tf32 = False
    unsupported = set()
    for dtype in ("float32",) if context.dry else DTYPES:
        for shape in scale.checked_shapes(op, context.dry):
            case = OpCase(op, shape, Setting(context.device, dtype, smoke=True), backward=True)
            whose, mode = naming.published(f"fast-{backend}")
            if context.has(case.what, whose, mode, case.batch, dtype):
                continue
            try:
                error, same = checked(case, backend)
            except UnsupportedInputError as why:
                unsupported.add(f"{op} on {backend}, {dtype}: {why}")
                continue
            except torch.OutOfMemoryError as full:  # others use the device too
                context.say(f"{case.name} on {backend}: {one_line(full)}")
                continue
            except Exception as problem:  # also a result that is wrong
                context.say(f"RED {case.name} on {backend}: {one_line(problem)}")
                forbid(context, op, backend, dtype)
                continue
            if not same:
                context.say(f"RED {case.name} on {backend}: a second run gave other bits")
                forbid(context, op, backend, dtype)
                continue
            context.add(case.what, whose, mode, batch=case.batch, dtype=dtype, rel_error=error, note="repeats=1")
    for text in unsupported:
        context.say(text)


def checked(case: OpCase, backend: str) -> tuple[float, bool]:
    """The largest error of result and gradients, and whether a second run gives the same bits."""
    ours = case.candidate(problems.public(case.op), backend=backend)
    with warnings.catch_warnings(), checks.poisoned(case.setting.device):
        warnings.simplefilter("ignore")  # "no deterministic implementation": irrelevant to the check
        first, second = list(ours.outputs()), list(ours.outputs())
    found = checks.difference(first, case.expected)
    checks.require(found, case.setting.dtype, False, f"{case.name}, {backend}")
    return found.max_relative, all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def forbid(context: Context, op: str, backend: str, dtype: str) -> None:
    """Notes that an op is wrong: no part after this one may give a figure for it."""
    with (context.work / RED).open("a") as file:
        file.write(f"{op} {backend} {dtype}\n")


def forbidden(context: Context, op: str, backend: str, dtype: str) -> bool:
    """Whether an op was found to be wrong."""
    with contextlib.suppress(FileNotFoundError):
        lines = (context.work / RED).read_text().split("\n")
        return f"{op} {backend} {dtype}" in lines or f"{op} {backend} *" in lines
    return False


def any_forbidden(context: Context) -> bool:
    return (context.work / RED).exists()
