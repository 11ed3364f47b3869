"""What every autograd function of the ops does beside its kernels: it saves tensors, and where backward itself is to be
differentiated it computes the gradients in plain PyTorch, which can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .checks import autocast_off


def save(ctx: Any, *tensors: Tensor | None) -> None:
    """Saves tensors for backward. None is left out: readers of graphs take what is saved for tensors."""
    ctx.absent = tuple([i for i, t in enumerate(tensors) if t is None])
    ctx.save_for_backward(*[t for t in tensors if t is not None])


def saved(ctx: Any) -> list[Any]:
    """Returns what :func:`save` was given."""
    tensors: list[Any] = list(ctx.saved_tensors)
    for i in ctx.absent:
        tensors.insert(i, None)
    return tensors


def again() -> bool:
    """Whether the gradients that backward computes are to be differentiated themselves (`create_graph=True`).

    Never under torch.compile, which refuses that with an error of its own."""
    return not torch.compiler.is_compiling() and torch.is_grad_enabled()


def gradients(
    ctx: Any, reference: Callable[..., Tensor], inputs: Sequence[Tensor | None], dy: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of `inputs`, which autograd can differentiate: those of `reference(*inputs)`, computed again.

    Args:
        ctx: of the autograd function; the inputs follow its first, the kernels.
        reference: plain PyTorch for what the kernels compute.
        inputs: as forward had them. Where only shape and dtype matter, zeros will do.
        dy: of the output.
    Returns:
        A gradient, or None where none is needed, for each input.
    """
    needed = ctx.needs_input_grad[1 : 1 + len(inputs)]
    with autocast_off(dy):
        # Through an alias of its own each input is independent of the others, whose graphs may lead to it.
        own = [t if t is None or not needs else t.view_as(t) for t, needs in zip(inputs, needed, strict=True)]
        wanted = [t for t, needs in zip(own, needed, strict=True) if needs and t is not None]
        for t in wanted:
            if not t.requires_grad:  # zeros in the place of an input
                t.requires_grad_()
        y = reference(*own)
        found = iter(torch.autograd.grad(y, wanted, dy.to(y.dtype), create_graph=True, allow_unused=True))
    return tuple([next(found) if needs and t is not None else None for t, needs in zip(own, needed, strict=True)])
