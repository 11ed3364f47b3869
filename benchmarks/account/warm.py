"""Fills the compilers' caches: every provider that torch.compile has work for, and the kernels of Triton.

Nothing is timed meanwhile: max-autotune tries its choices on the GPU, and the processes share it.
"""

from __future__ import annotations

import os
import time

from .. import naming, providers
from . import children, scale
from .context import Context
from .scale import Subject


def run(context: Context) -> None:
    jobs = []
    for kind in ("training", "pretraining", "inference"):  # the longest first
        for name in scale.ids(kind, context.dry):
            if scale.compiled(name):
                jobs.append((f"{kind}-{name}", one, (kind, name, context)))
    at_once = 1 if context.dry else max(1, (os.cpu_count() or 2) * 3 // 4)
    for name, code in children.spread(jobs, log=context.log, ends=context.ends - 1, at_once=at_once):
        if code != 0:
            kind, _, provider = name.partition("-")
            published = " ".join(naming.published(provider))
            context.say(f"{published}, {kind}: {children.ending(code, context.log(name))}")


def one(kind: str, provider: str, context: Context) -> None:
    """Compiles one provider for every batch of one kind."""
    scale.prepare_process(context)
    batches = scale.batches(kind, context.dry)
    for batch in batches[:1] if context.dry else batches:
        case = Subject(kind, batch, context.dry).case()
        begin = time.monotonic()
        candidate = providers.build(provider, case)
        candidate.run(0)
        print(f"{case.name}: {time.monotonic() - begin:.1f} s", flush=True)
