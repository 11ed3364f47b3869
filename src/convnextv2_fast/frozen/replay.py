"""The program of a frozen model on a GPU: a copy of its modules, replayed as CUDA graphs.

Nobody else holds the copy. So nothing about it changes, and no call looks for changes, as one of
:func:`convnextv2_fast.graphs.inference` has to.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import accelerate
from ..graphs import capture
from ..graphs.calls import Call, settings, why_not_here
from ..graphs.inference import WARM_UP
from ..graphs.shelf import Shelf
from .plan import plain_class
from .record import PROGRAM, RECORD

MOST_SHAPES = 8  # graphs that are kept, those used last
_ONE_IMAGE = Call.of((torch.empty(0, device="cpu"),)).spec  # to take arguments apart takes longer than to copy an image
_EMPTY = vars(nn.Module())  # of every module: hooks, and what lies in tables


def copy_of(m: nn.Module, tensors: dict[int, Tensor]) -> nn.Module:
    """A module of the same class as before it was accelerated or frozen, with copies of its parameters, buffers and
    modules, and without hooks. Other attributes are the same objects.

    Args:
        tensors: the copies that were made, by the id of what was copied.
    """
    cls = plain_class(m)
    made = cls.__new__(cls)
    own = {name: _apart(value) for name, value in vars(m).items() if name not in (PROGRAM, RECORD)}
    own |= {name: type(value)() for name, value in _EMPTY.items() if isinstance(value, dict)}
    own["_non_persistent_buffers_set"] = set(m._non_persistent_buffers_set)
    vars(made).update(own)
    for name, p in m._parameters.items():
        made._parameters[name] = None if p is None else _copied(p, tensors)  # type: ignore[assignment]
    for name, buffer in m._buffers.items():
        made._buffers[name] = None if buffer is None else _copied(buffer, tensors)
    for name, inner in m._modules.items():
        made._modules[name] = None if inner is None else copy_of(inner, tensors)
    return made


def _apart(value: Any) -> Any:
    """What may be changed in place is copied; objects of other classes belong to whoever made them."""
    return type(value)(value) if type(value) in (list, dict, set) else value


def _copied(t: Tensor, tensors: dict[int, Tensor]) -> Tensor:
    if id(t) not in tensors:
        with torch.inference_mode(False), torch.no_grad():
            values = torch.empty_like(t, requires_grad=False).copy_(t)
        tensors[id(t)] = nn.Parameter(values, requires_grad=False) if isinstance(t, nn.Parameter) else values
    return tensors[id(t)]


class Replay:
    """Graphs of copies of modules: one for each method and form of the images.

    Args:
        modules: those that a model consists of, by their names in it. They are copied, and the copies accelerated.
    """

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        tensors: dict[int, Tensor] = {}
        copies = {name: copy_of(m, tensors) for name, m in modules.items()}
        for m in copies.values():
            accelerate(m)
        self.__setstate__(copies)

    def __getstate__(self) -> dict[str, nn.Module]:
        return self._own

    def __setstate__(self, own: dict[str, nn.Module]) -> None:
        """Of a pickle, too, which holds no graphs, and which may have been loaded on another device."""
        self._own = own
        self.device = next(p.device for m in own.values() for p in m.parameters())
        self._shelf = Shelf(self.device, WARM_UP, MOST_SHAPES, ())
        self._turns = capture.recorder.in_order(self.device)

    def __call__(self, path: tuple[str, str], image: Tensor) -> list[Tensor]:
        """What :meth:`run` gives. Threads wait for each other."""
        call = Call([image], _ONE_IMAGE)
        why_not = why_not_here(self.device.type) or capture.recorder.why_not(self.device)
        if why_not or call.why_not(self.device):
            return self.run(path, call)
        with self._turns:
            key = path, image.shape, image.stride(), image.dtype, settings(self.device)
            results, static = self._shelf.run(key, call, lambda given: self.run(path, given))
            return [t.clone() for t in results] if static else results

    def run(self, path: tuple[str, str], call: Call) -> list[Tensor]:
        """Calls a method, or the modules of a list one after the other. Returns the tensors of the result, or of all
        modules.

        Args:
            path: the name of a module that was copied, and of the method or list in it.
        """
        (image,), _ = call.arguments()
        found: Any = operator.attrgetter(path[1])(self._own[path[0]])
        with torch.inference_mode(False), torch.no_grad():
            if isinstance(found, nn.ModuleList):
                results = []
                for m in found:
                    image = m(image)
                    results.append(image)
                return results
            result = found(image)
        if isinstance(result, Tensor):
            return [result]
        return list(result.values() if isinstance(result, dict) else result)
