"""Models of other libraries on this library's kernels: timm, transformers, upstream's own classes."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator

from torch import nn

from .. import library
from ..changes import forward_changed
from ..errors import UnsupportedInputError
from ..fusion import Inspection, inspect, why_not_any
from ..models import convnextv2, convnextv2_sparse
from . import upstream
from ._report import AccelerateReport, NotReplaced, Replaced
from ._swap import Accelerated, Forward, Frozen, Swap, accelerated, is_accelerated, original_class

__all__ = ["AccelerateReport", "NotReplaced", "Replaced", "accelerate", "restore"]

OURS = (convnextv2.Block, convnextv2.PatchConv, convnextv2_sparse.Block, convnextv2_sparse.SparsePatchConv)
_LIBRARIES = {  # modules that define what can be replaced
    "timm": ("timm.models.convnext",),
    "transformers": tuple(f"transformers.models.{v}.modeling_{v}" for v in ("convnext", "convnextv2")),
}


def accelerate(model: nn.Module) -> AccelerateReport:
    """Lets the ConvNeXt V1 and V2 blocks, stems and downsampling layers in a model run on this library, in place.

    Known are timm's `ConvNeXt` (any `convnext*` and `convnextv2*`, with `features_only` too), transformers' `ConvNext`
    and `ConvNextV2` models, upstream's own classes, and whatever model holds any of them. Only the modules' class
    changes, to a subclass with another `forward`: modules, parameters, buffers, `state_dict`, hooks, training mode,
    copies, pickles and optimizers stay as they are. A module that was changed (hooks, adapters, quantised or
    parametrised layers, another activation) runs as it was, also if the change comes later. Upstream's classes have no
    package: a `Block` that looks like theirs is fused only if its code and a trial show that it computes the same.
    Calling it again is harmless and reports anew. Another thread may run the model meanwhile. This library's own
    modules stay as they are; the report says which of them are not fused.

    Args:
        model: any module. Call it before `torch.compile`, DDP and FSDP.
    Returns:
        What was replaced, what was not, and why; print it.
    Raises:
        UnsupportedInputError: not an `nn.Module`.
    Warns:
        UserWarning: there is nothing to replace.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedInputError(f"accelerate: wants an nn.Module, got {type(model).__name__}")
    swaps, notes = _swaps()
    replaced, left = [], []
    for name, module in _outside_frozen(model):
        if isinstance(module, Frozen):
            left.append(NotReplaced(name, type(module).__name__, "frozen, it runs as one program; unfreeze it first"))
            continue
        cls = original_class(module) if is_accelerated(module) else type(module)  # another thread may restore it now
        forward, found = _inspect(module, cls, swaps)
        left += [NotReplaced(name, cls.__name__, reason) for reason in found.reasons]
        if forward is not None:
            module.__class__ = accelerated(cls, forward)  # at once: a call that runs goes on as it began
            replaced.append(Replaced(name, cls.__name__, " + ".join(found.ops)))
    ours = any(isinstance(module, OURS) for module in model.modules())
    if not (replaced or left or ours or notes):
        warnings.warn(f"accelerate: there is no ConvNeXt module in this {type(model).__name__}", stacklevel=2)
    return AccelerateReport(tuple(replaced), tuple(left), (*notes, *_notes(model, ours)))


def restore(model: nn.Module) -> int:
    """Undoes :func:`accelerate`: every module gets its class back. Returns how many did.

    Not those whose class was changed again since (FSDP2's `fully_shard`), nor those in a frozen model, which
    :func:`unfreeze` gives back as they were."""
    count = 0
    for _, module in _outside_frozen(model):
        if is_accelerated(module):
            module.__class__ = original_class(module)
            count += 1
    return count


def _outside_frozen(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules of a model and their names, of frozen ones only the outermost: nothing calls what is inside."""
    found: list[tuple[str, nn.Module]] = []
    frozen: str | None = None  # what the names inside begin with
    for name, module in model.named_modules():
        if frozen is None or not name.startswith(frozen):
            found.append((name, module))
            if isinstance(module, Frozen):
                frozen = f"{name}." if name else ""
    return found


def _swaps() -> tuple[dict[type, list[Swap]], list[str]]:
    """Returns the replacements for modules of each library that has been imported, since a model can contain no others,
    and a note for each library whose version is not understood."""
    found: dict[type, list[Swap]] = {nn.Sequential: [upstream.PAIR_SWAP]}
    notes = []
    for name, modules in _LIBRARIES.items():
        if not any(module in sys.modules for module in modules):
            continue
        try:
            swaps = importlib.import_module(f".{name}", __name__).SWAPS
        except (ImportError, AttributeError) as error:
            notes.append(f"{name}'s modules were left alone, this version of {name} is not known: {error}")
            continue
        for swap in swaps:
            found.setdefault(swap.cls, []).append(swap)
    return found, notes


def _inspect(module: nn.Module, cls: type, swaps: dict[type, list[Swap]]) -> tuple[Forward | None, Inspection]:
    """Returns the forward for a module of this class if any of this library's ops would run in it, and the inspection:
    which ops run, and why others do not. This library's own modules have no other forward: they are only inspected."""
    own = forward_changed(module, cls)  # it would hide ours, or ours would hide it
    if isinstance(module, OURS):
        return None, inspect(own or module.parts())
    if upstream.is_block(module):  # of a class that no package defines: its forward is read anyway
        found = inspect("has a forward of its own" if "forward" in vars(module) else upstream.parts(module))
        return upstream.block_forward if found.ops else None, found
    for swap in swaps.get(cls, ()):
        parts = swap.parts(module)
        if parts is not None:
            found = inspect(own or parts)
            return swap.forward if found.ops else None, found
    derived = next((base for base in cls.__mro__[1:] if base in swaps and base is not nn.Sequential), None)
    if cls in swaps or derived is None:
        return None, Inspection((), ())
    if isinstance(module, Accelerated):  # FSDP2's class over ours
        return None, Inspection((), ("accelerated already, then wrapped",))
    return None, Inspection((), (f"a class derived from {derived.__name__}",))


def _notes(model: nn.Module, ours: bool) -> Iterator[str]:
    if ours:
        yield "this library's own blocks need no help"
    hooks = why_not_any()
    if hooks is not None:
        yield f"NOTHING IS FUSED AT PRESENT: {hooks}"
    devices = {p.device.type for p in model.parameters()}
    missing = library.why_not("cpu")
    if missing is not None and "cpu" in devices:
        yield f"NO CPU KERNELS: on the CPU this runs as plain PyTorch. {missing[0].upper()}{missing[1:]}"
    missing = library.why_not("cuda")
    if missing is not None and library.triton_why_not() is not None and "cuda" in devices:
        yield f"NO GPU KERNELS: on the GPU this runs as plain PyTorch. {missing[0].upper()}{missing[1:]}"
