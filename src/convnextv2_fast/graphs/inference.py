"""Inference: a model whose calls are replays."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import UnsupportedInputError
from . import capture
from .calls import Call, is_plain, settings, versions, why_not_here
from .shelf import Shelf, remember
from .watch import Watch

WARM_UP = 2  # libraries choose their algorithms in the first call, and compiled code may settle in the second


class Inference:
    """See :func:`inference`."""

    def __init__(self, model: nn.Module, most_shapes: int, copy: bool, generators: Sequence[torch.Generator]) -> None:
        if not isinstance(model, nn.Module):
            raise UnsupportedInputError(f"graphs.inference: wants an nn.Module, got a {type(model).__name__}")
        if most_shapes < 1:
            raise UnsupportedInputError(f"graphs.inference: most_shapes must be at least 1, got {most_shapes}")
        self.model, self.copy = model, copy
        self._most, self._generators = most_shapes, tuple(generators)
        self._watch: Watch | None = None
        self._shelf: Shelf | None = None
        self._turns: Any = None
        self._unfit: dict[Hashable, str] = {}  # keys of calls that no graph can hold, and why
        self._changes = 0  # of the model, in a row

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's result, without a gradient unless an argument requires one."""
        if why_not_here():
            return self.model(*args, **kwargs)
        call = Call.of(args, kwargs)
        self._look(call)
        if self._why_not(call):
            with torch.set_grad_enabled(_wants_gradient(call)):
                return self.model(*args, **kwargs)
        assert self._shelf is not None
        with self._turns:
            key = self._key(call)
            before = versions(call)
            result, static = self._shelf.run(key, call, self._forward)
            if versions(call) != before:
                remember(self._unfit, key, "the model writes into its arguments")
            elif not static and not is_plain(result):
                remember(self._unfit, key, "the result holds something besides tensors and constants")
            return pytree.tree_map_only(Tensor, torch.clone, result) if static and self.copy else result

    def why_not(self, *args: Any, **kwargs: Any) -> str | None:
        """Why a call with these arguments would run without a graph, in words; None: it is a replay."""
        reason = why_not_here()
        if reason:
            return reason
        call = Call.of(args, kwargs)
        if self._watch is None:
            self._look(call)
        changed = self._watch.changed() if self._watch is not None else None
        if changed:
            return changed + (" before every call" if self._changes > WARM_UP else "; graphs are made anew")
        reason = self._why_not(call)
        if reason or self._shelf is None:
            return reason
        left = self._shelf.left(self._key(call))
        return f"calls like this one become a graph after {left} more" if left else None

    def _key(self, call: Call) -> Hashable:
        assert self._shelf is not None
        return call.key(), settings(self._shelf.device)

    def _look(self, call: Call) -> None:
        """Looks at the model, and forgets the graphs of what is no longer so."""
        if self._watch is not None and not self._watch.changed():
            self._changes = 0
            return
        self._changes += 1
        self._watch = Watch(self.model)
        device = next(iter([*self.model.parameters(), *self.model.buffers(), *call.tensors]), torch.empty(0)).device
        if self._shelf is None or self._shelf.device != device:
            self._shelf = Shelf(device, WARM_UP, self._most, self._generators)
            self._turns = None
        self._shelf.clear()
        self._unfit.clear()

    def _why_not(self, call: Call) -> str | None:
        assert self._shelf is not None and self._watch is not None
        device = self._shelf.device
        reason = capture.recorder.why_not(device) or self._watch.never or self._watch.why_not()
        reason = reason or call.why_not(device)
        if not reason and self._unfit:
            reason = self._unfit.get(self._key(call))
        if not reason and self._turns is None:
            self._turns = capture.recorder.in_order(device)
        return reason

    def _forward(self, call: Call) -> Any:
        args, kwargs = call.arguments()
        device = call.tensors[0].device.type if call.tensors else "cpu"
        # Casts of weights that autocast has kept from before would be constants of the graph.
        cast = torch.autocast(
            device,
            torch.get_autocast_dtype(device),
            torch.is_autocast_enabled(device),
            cache_enabled=False,
        )
        with torch.inference_mode(False), torch.no_grad(), cast:
            return self.model(*args, **kwargs)


def _wants_gradient(call: Call) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in call.tensors)


def inference(
    model: nn.Module, most_shapes: int = 8, copy: bool = True, generators: Sequence[torch.Generator] = ()
) -> Inference:
    """A callable that runs a model as CUDA graphs: one for each form of its arguments, made after two eager calls.

    A graph serves calls of the same shapes, strides, dtypes, devices, constants and autocast. It reads the weights from
    their memory: an optimizer's step or `load_state_dict` is seen by the next call. Where parameters get other memory,
    a module, mode, hook or attribute changes, graphs are made anew. Threads wait for each other.

    A call runs eagerly, never wrongly, where no graph can serve: not on a CUDA device, while an argument requires a
    gradient, under torch.compile or another capture, with hooks on modules. `why_not(*arguments)` says why.

    Args:
        model: any module that reads nothing back from the device and whose shapes do not depend on values.
        most_shapes: graphs that are kept, those used last. Each keeps the memory of its arguments and results.
        copy: return copies. False: results lie in the graph's memory, and the next call overwrites them.
        generators: CUDA generators of one's own, from which the model draws.
    Raises:
        UnsupportedInputError: no module, or no graph to keep.
        CaptureError: from a call: the model does what no graph can hold.
    """
    return Inference(model, most_shapes, copy, generators)
