"""Fills the compilers' caches: every provider that torch.compile has work for, and Triton's kernels of every op.

Nothing is timed meanwhile: max-autotune tries its choices on the GPU, and the processes share it.
"""

from __future__ import annotations

import os
import time

from .. import naming, providers
from . import children, ops, scale
from .context import Context
from .scale import Subject


def run(context: Context) -> None:
    models = [
        (kind, name) for kind in ("training", "pretraining", "inference") for name in scale.ids(kind, context.dry)
    ]
    jobs = [(f"{kind}-{name}", model, (kind, name, context)) for kind, name in models if scale.compiled(name)]
    jobs += [(f"triton-{op}", triton_op, (op, context)) for op in ops.NAMES]
    at_once = 2 if context.dry else max(2, os.cpu_count() or 2)
    for name, code in children.spread(jobs, log=context.log, ends=context.ends - 1, at_once=at_once):
        if code != 0:
            kind, _, rest = name.partition("-")
            what = f"{rest} on triton" if kind == "triton" else f"{' '.join(naming.published(rest))}, {kind}"
            context.say(f"{what}: {children.ending(code, context.log(name))}")


def model(kind: str, provider: str, context: Context) -> None:
    """Compiles one provider for every batch of one kind."""
    scale.prepare_process(context)
    batches = scale.batches(kind, context.dry)
    for batch in batches[:1] if context.dry else batches:
        case = Subject(kind, batch, context.dry).case()
        begin = time.monotonic()
        candidate = providers.build(provider, case)
        candidate.run(0)
        print(f"{case.name}: {time.monotonic() - begin:.1f} s", flush=True)


def triton_op(name: str, context: Context) -> None:
    """Runs an op once in each of Triton's forms, at every shape that will be timed."""
    scale.prepare_process(context)
    for group in ops.groups(name, context):
        for provider, build in group.candidates.items():
            if "triton" in provider:
                ops.tried(context, group, provider, build)
