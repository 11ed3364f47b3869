"""DistributedDataParallel and FSDP2 around a model: what is inside, and when gradients are averaged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def bare(model: nn.Module) -> nn.Module:
    """The model itself, out of its wrapping."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def is_replicated(model: nn.Module) -> bool:
    return isinstance(model, nn.parallel.DistributedDataParallel)


def is_sharded(model: nn.Module) -> bool:
    return hasattr(model, "set_requires_gradient_sync")


@contextlib.contextmanager
def synchronised(model: nn.Module, last: bool) -> Iterator[None]:
    """Gradients are averaged over the processes in the last backward of a step only."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        with contextlib.nullcontext() if last else model.no_sync():
            yield
        return
    if is_sharded(model):
        sharded: Any = model
        sharded.set_requires_gradient_sync(last)
    yield


def why_not(model: nn.Module) -> str | None:
    """Why no graph can hold the communication of a wrapped model; None: one can, or there is none."""
    if is_sharded(model):
        return "FSDP gathers and frees weights while a step runs, which is not captured"
    if isinstance(model, nn.DataParallel):
        return "DataParallel copies the model in every step; DistributedDataParallel does not"
    if not isinstance(model, nn.parallel.DistributedDataParallel):
        return None
    if model.find_unused_parameters:
        return "DistributedDataParallel(find_unused_parameters=True) reads back which parameters were used"
    if model.static_graph:
        return "DistributedDataParallel(static_graph=True) delays its sums, which is not captured"
    if getattr(model, "_comm_hooks", None) or any(getattr(model, kind) for kind in HOOKS):
        return "a hook is registered on DistributedDataParallel, which a replay would not call"
    return None
