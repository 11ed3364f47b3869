"""CUDA graphs without a GPU: a tape of the operators that a function called, which is run again on the same tensors.

As of a CUDA graph, what a recording does has no effect until it is replayed, a replay runs no Python of the function,
numbers stay what they were, memory stays where it was, random numbers come from the generator as it is at the replay,
and reading a value is an error.
"""

import contextlib
import threading

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from convnextv2_fast.errors import CaptureError
from convnextv2_fast.graphs import capture

READING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.is_nonzero.default,
}


def tensors(tree):
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def alias(tree):
    """Other tensors on the same memory: a graph knows no tensors, which may get other memory."""
    return pytree.tree_map_only(Tensor, lambda t: t.detach(), tree)


class Read(Exception):
    """A value would have been read back from the device."""


class Tape(TorchDispatchMode):
    """Writes down the operators. `made` are the storages that belong to the recording."""

    def __init__(self):
        super().__init__()
        self.entries, self.made, self.before = [], set(), {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in READING:
            raise Read(str(func))
        written = self._written(func, args, kwargs)
        for t in written:
            self._keep(t)
        outputs = func(*args, **kwargs)
        known = {t.untyped_storage().data_ptr() for t in tensors((args, kwargs))}
        self.made |= {t.untyped_storage().data_ptr() for t in tensors(outputs)} - known
        self.entries.append((func, *map(alias, (args, kwargs, outputs))))
        return outputs

    @staticmethod
    def _written(func, args, kwargs):
        found = []
        for i, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                found += tensors(args[i] if i < len(args) else kwargs.get(argument.name))
        return found

    def _keep(self, t):
        """The values of what was there before the recording, which must not change by it."""
        storage = t.untyped_storage()
        if storage.data_ptr() not in self.made and storage.data_ptr() not in self.before:
            self.before[storage.data_ptr()] = (storage, storage.clone())


class Replayed:
    def __init__(self, tape, outputs):
        self.tape, self.outputs = tape, outputs
        self.replays = 0

    def replay(self):
        self.replays += 1
        with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
            for func, args, kwargs, outputs in self.tape.entries:
                for old, new in zip(tensors(outputs), tensors(func(*args, **kwargs)), strict=True):
                    if old.data_ptr() != new.data_ptr() and old.numel():
                        old.copy_(new)


class Recorder:
    """In the place of `capture.Cuda`. `recordings` are those that were made."""

    def __init__(self, *, needs=None):
        self.recordings, self.asides, self.needs = [], 0, needs

    def why_not(self, device):
        return self.needs

    def aside(self, device, function):
        self.asides += 1
        return function()

    def building(self, device):
        return contextlib.nullcontext()

    def pool(self):
        return object()

    def record(self, device, function, pool, generators):
        tape, state = Tape(), torch.get_rng_state()
        try:
            with tape:
                outputs = function()
        except Read as error:
            raise CaptureError(capture.why_failed(error)) from error
        finally:
            torch.set_rng_state(state)
            for storage, values in tape.before.values():
                storage.copy_(values)
        with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
            for t in tensors(outputs):  # as a graph's: nothing is in them before the first replay
                if t.untyped_storage().data_ptr() in tape.made and t.is_floating_point():
                    t.fill_(float("nan"))
        self.recordings.append(Replayed(tape, outputs))
        return self.recordings[-1]

    def in_order(self, device):
        return threading.RLock()
