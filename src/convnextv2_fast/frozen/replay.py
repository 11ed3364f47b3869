"""The program of a frozen model on a GPU: a copy of the model, replayed as CUDA graphs.

Nobody else holds the copy. So nothing about it changes, and no call looks for changes, as one of
:func:`convnextv2_fast.graphs.inference` has to.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import accelerate
from ..graphs import capture
from ..graphs.calls import Call, settings
from ..graphs.inference import WARM_UP
from ..graphs.shelf import Shelf
from ..graphs.wrappers import HOOKS

MOST_SHAPES = 8  # graphs that are kept, those used last
_ONE_IMAGE = Call.of((torch.empty(0, device="cpu"),)).spec  # to take arguments apart takes longer than to copy an image


def copy_of(model: nn.Module, without: Iterable[Any]) -> nn.Module:
    """A copy of a model without the hooks on the model itself, which are called where it is called.

    Args:
        without: attributes that are None in the copy.
    """
    memo: dict[int, Any] = {id(getattr(model, kind)): type(getattr(model, kind))() for kind in HOOKS}
    return copy.deepcopy(model, memo | {id(found): None for found in without})


class Replay:
    """Graphs of a model that nobody else holds: one for each method and form of the images.

    Args:
        own: the model. Its blocks are accelerated.
    """

    def __init__(self, own: nn.Module) -> None:
        accelerate(own)
        self.__setstate__(own.requires_grad_(False))

    def __getstate__(self) -> nn.Module:
        return self._own

    def __setstate__(self, own: nn.Module) -> None:
        """Of a pickle, too, which holds no graphs, and which may have been loaded on another device."""
        self._own = own
        self.device = next(own.parameters()).device
        self._shelf = Shelf(self.device, WARM_UP, MOST_SHAPES, ())
        self._turns = capture.recorder.in_order(self.device)

    def __call__(self, path: str, image: Tensor) -> list[Tensor]:
        """What the method or modules of that path make of the image; see :meth:`run`. Threads wait for each other."""
        call = Call([image], _ONE_IMAGE)
        if capture.recorder.why_not(self.device) or call.why_not(self.device):
            return self.run(path, call)
        with self._turns:
            key = path, image.shape, image.stride(), image.dtype, settings(self.device)
            results, static = self._shelf.run(key, call, lambda given: self.run(path, given))
            return [t.clone() for t in results] if static else results

    def run(self, path: str, call: Call) -> list[Tensor]:
        """Calls the model's method of that path, or the modules of a list one after the other. Returns the tensors of
        the result, or of all modules."""
        (image,), _ = call.arguments()
        found = operator.attrgetter(path)(self._own)
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
