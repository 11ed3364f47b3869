"""Has everything compiled that needs it, which fills the compilers' caches: every provider of whole models, and
Triton's kernels of every op.

Nothing is timed meanwhile: max-autotune tries its choices on the GPU, and the processes share it. The models' processes
stay for the part that times them.
"""

from __future__ import annotations

import os

import torch

from . import children, ops, scale
from .context import Context
from .crews import Crews


def run(context: Context, crews: Crews) -> None:
    process = children.start(context.log("triton"), triton, context)
    try:
        crews.compiled(context, context.ends - 2)
        children.wait(process, context.ends - 1)
    finally:
        children.end(process)


def triton(context: Context) -> None:
    """Every op in each of Triton's forms, several processes at a time."""
    scale.prepare_process(context)
    jobs = [(f"triton-{op}", triton_op, (op, context)) for op in ops.NAMES]
    at_once = 1 if context.dry else max(2, (os.cpu_count() or 2) // 4)
    for name, code in children.spread(jobs, log=context.log, ends=context.ends - 2, at_once=at_once):
        if code != 0:
            context.say(f"{name.partition('-')[2]} on triton: {children.ending(code, context.log(name))}")


def triton_op(name: str, context: Context) -> None:
    """Runs an op once in each of Triton's forms, at every shape that will be timed first."""
    scale.prepare_process(context)
    for group in ops.groups(name, context, ops.batches(context)[0]):
        for provider, build in group.candidates.items():
            if "triton" in provider:
                ops.tried(context, group, provider, build)
        if context.device == "cuda":
            torch.cuda.empty_cache()
