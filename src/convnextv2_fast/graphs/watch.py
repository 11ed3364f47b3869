"""Whether a module still is what it was when a graph was made of it.

A graph reads weights from their memory, so new values in the same memory are seen. Other memory, other modules, another
mode, another number in an attribute: these are part of the graph, and it has to be made anew.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module

from .wrappers import HOOKS

_GLOBAL = [getattr(module, f"_global{kind}") for kind in HOOKS]


class Watch:
    """A module as it is now.

    Attributes:
        parameters: those of it.
        never: what about it no graph can hold, in words; None: nothing.
        never_trained: the same, of its training alone.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = dict(model.named_modules())
        self._modules = [*modules.values()]
        # Empty tables, too: something may be registered in them.
        self._tables = [table for m in self._modules for table in (vars(m), m._parameters, m._buffers, m._modules)]
        self._objects, self._types = self._held(), self._classes()
        self.parameters = list(model.parameters())
        self._tensors = [*self.parameters, *model.buffers()]
        self._plain = [value for m in self._modules for value in vars(m).values() if isinstance(value, Tensor)]
        self.never, self.never_trained = self._never(modules), _never_trained(modules)
        self._memory = self._places()
        self._trained = [t.requires_grad for t in self._tensors]
        self._hooks = [(name, getattr(m, kind)) for name, m in modules.items() for kind in HOOKS]

    def _held(self) -> list[Any]:
        return list(chain.from_iterable(table.values() for table in self._tables))

    def _classes(self) -> list[type]:
        return list(map(type, self._modules))

    def _places(self) -> list[Any]:
        """Where tensors lie, and how; nothing of a module that no graph can hold, whose tensors may have no memory."""
        return [] if self.never else places([*self._tensors, *self._plain])

    def changed(self) -> str | None:
        """What is no longer as it was, in words."""
        now = self._held()
        if len(now) != len(self._objects) or not all(map(operator.is_, now, self._objects)):
            return "a parameter, a module, a mode or an attribute of the model was changed"
        if self._classes() != self._types:
            return "a module of the model is of another class"
        if self._places() != self._memory:
            return "a parameter or buffer of the model lies in other memory"
        if [t.requires_grad for t in self._tensors] != self._trained:
            return "other parameters are trained"
        return None

    def why_not(self) -> str | None:
        """What in the module a replay would leave out, or a graph cannot hold."""
        if any(_GLOBAL):
            return "a hook is registered on all modules, which a replay would not call"
        for name, hooks in self._hooks:
            if hooks:
                return f"a hook is registered on {_named(name)}, which a replay would not call"
        return why_not_hooked(self._tensors)

    def _never(self, modules: dict[str, nn.Module]) -> str | None:
        odd = next((type(t).__name__ for t in self._tensors if type(t) not in (Tensor, nn.Parameter)), None)
        if odd is not None:
            return f"a parameter is a {odd} (sharded, quantised or lazy weights), which is not captured"
        if any(t.layout is not torch.strided for t in self._tensors):
            return "a parameter or buffer is sparse, which is not captured"
        if len({t.device for t in self._tensors}) > 1:
            return "the parameters are on several devices"
        if any(map(_is_compiled, modules.values())):
            return 'the model is compiled: torch.compile(mode="reduce-overhead") makes CUDA graphs itself'
        return None


def places(tensors: Iterable[Tensor]) -> list[Any]:
    """Where tensors lie, and how."""
    return [(t.data_ptr(), t.dtype, t.shape, t.stride()) for t in tensors if t.layout is torch.strided]


def why_not_hooked(tensors: Iterable[Tensor]) -> str | None:
    for t in tensors:
        if t._backward_hooks or getattr(t, "_post_accumulate_grad_hooks", None):
            return "a hook is registered on a parameter, which a replay would not call"
    return None


def _is_compiled(m: nn.Module) -> bool:
    """By `torch.compile(m)`, `m.compile()`, or a compiled forward of its own."""
    own = hasattr(vars(m).get("forward"), "_torchdynamo_orig_callable")
    return own or hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) is not None


def _never_trained(modules: dict[str, nn.Module]) -> str | None:
    for name, m in modules.items():
        if getattr(m, "grad_checkpointing", False) or getattr(m, "gradient_checkpointing", False):
            return f"activation checkpointing is on in {_named(name)}, which reads random states back"
        if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.sparse:
            return f"the gradient of {_named(name)} is sparse: its size depends on values"
    return None


class Memory:
    """Where tensors lie that may be replaced as a whole, such as an optimizer's state."""

    def __init__(self, tensors: Callable[[], Iterable[Tensor]]) -> None:
        self._tensors = tensors
        self._kept = list(tensors())  # so that nobody else gets their memory
        self._memory = _addresses(self._kept)

    def changed(self) -> bool:
        return _addresses(self._tensors()) != self._memory


def _addresses(tensors: Iterable[Tensor]) -> list[int]:
    return [t.data_ptr() for t in tensors]


def _named(name: str) -> str:
    return name or "the model"
