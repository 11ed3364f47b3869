"""`freeze` and `unfreeze`."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from .. import library
from ..adapters._swap import Frozen
from ..changes import forward_changed
from ..errors import UnsupportedInputError
from . import ours, upstream
from .call import what_is_at_work
from .guards import Guarded, frozen_class, record_of, refuse_released
from .plan import plain_class, refuse
from .record import PROGRAM, RECORD, Draft, Record, Seen, forward_before, give_back
from .replay import Replay

Model = TypeVar("Model", bound=nn.Module)
Drafter = Callable[[Any], Draft]

_LIBRARIES = {  # modules that define models that can be frozen, and the class whose presence tells so
    "timm": ("timm.models.convnext",),
    "transformers": tuple(f"transformers.models.{v}.modeling_{v}" for v in ("convnext", "convnextv2")),
}


def freeze(model: Model, *, release_weights: bool = False) -> Model:
    """Makes a model for inference one native operator on a CPU, or one CUDA graph for each form of the images on a GPU,
    from the image to features or logits, in place. (In transformers' models the embeddings and the encoder are one
    each.)

    The weights are constants from now on: they are packed or copied once, and no call looks at them again. A write into
    a weight (by an optimizer, `.data`, NumPy) is ignored until `freeze` is called again, which packs anew, or
    :func:`unfreeze`. `load_state_dict`, :func:`load_checkpoint`, a change of dtype or device, `train()` and
    `reset_classifier` raise an error, and so does a call with another module or parameter in the place of one.
    `state_dict()`, pickles, copies, hooks on the model itself, and on a CPU `torch.compile` and `torch.export` work.
    A program is for the instruction set of the CPU that made it. Threads may share a frozen model, also while it is
    packed anew. On a GPU the first two calls of a form (sizes, strides, backend) run eagerly; the eight forms used last
    keep their graphs.

    Args:
        model: a :class:`ConvNeXtV2`, upstream's, timm's `convnext*` or `convnextv2*`, also with `features_only`, or
            transformers' ConvNext and ConvNextV2 model, classifier or backbone; accelerated or not; in evaluation mode,
            on a CPU or a CUDA GPU, in float32, bfloat16 or float16. Every module that the operator stands for must be
            as it was written.
        release_weights: frees the memory of the weights that are in the program. The model then has no `state_dict`
            and cannot be unfrozen. Without it the weights are in memory twice.
    Returns:
        The model.
    Raises:
        UnsupportedInputError: the model is none of these, or holds a frozen model or lies in one, or a module was
            changed (hooks, adapters, quantised or parametrised layers, another activation), is in training mode, on
            another device, in another dtype, or this installation has no CPU kernels for a model on a CPU; nothing was
            changed.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedInputError(f"freeze: wants an nn.Module, got {type(model).__name__}")
    before = record_of(model) if is_frozen(model) else None
    if before is not None and before.released:
        refuse_released(before.name, "it cannot be packed anew")
    drafter = _drafter(model)
    _check(model)
    if before is None:
        _refuse_frozen_parts(model)
    draft = drafter(model)
    draft.plan.check()
    program = Replay(draft.plan.whole) if _is_replayed(draft.plan.device) else draft.plan.pack()
    modules = dict(model.named_modules())
    forwards = before.forwards if before is not None else {name: forward_before(modules[name]) for name in draft.mixins}
    replaced: list[Record | None] = [modules[name].__dict__.get(RECORD) for name in draft.parts]
    for name, part in draft.parts.items():
        record = Record(
            type(model).__name__,
            draft.plan.dtype,
            draft.plan.device,
            part.channels,
            part.least,
            part.calls,
            part.start,
            release_weights,
            forwards,
            Seen(modules[name]),
        )
        # The program first: a call of another thread then finds one, old or new.
        modules[name].__dict__[PROGRAM] = program
        modules[name].__dict__[RECORD] = record
    for name, mixin in draft.mixins.items():
        modules[name].__class__ = frozen_class(mixin, plain_class(modules[name]))
    if release_weights:  # afterwards the parameters are others, while calls run by either record
        for record in (*replaced, *(modules[name].__dict__[RECORD] for name in draft.parts)):
            if record is not None and record.seen is not None:
                record.seen.retire()
        _release(model, draft.plan.used)
        for name in draft.parts:
            own = modules[name].__dict__
            own[RECORD] = dataclasses.replace(own[RECORD], seen=Seen(modules[name]))
    return model


def unfreeze(model: Model) -> Model:
    """Undoes :func:`freeze`, in place; a model that is not frozen stays as it is. Returns the model.

    No other thread may run the model meanwhile.

    Raises:
        UnsupportedInputError: its weights were released.
    """
    if not is_frozen(model):
        return model
    record = record_of(model)
    if record.released:
        refuse_released(record.name, "it cannot be unfrozen")
    modules = dict(model.named_modules())
    for name, forward in record.forwards.items():
        give_back(modules[name], plain_class(modules[name]), forward)
    for m in modules.values():
        if RECORD in vars(m):
            del m.__dict__[PROGRAM], m.__dict__[RECORD]
    return model


def is_frozen(model: nn.Module) -> bool:
    """Whether :func:`freeze` was called of this model, and :func:`unfreeze` not since."""
    return isinstance(model, Guarded)


def _is_replayed(device: torch.device) -> bool:
    return device.type == "cuda"


def _check(model: nn.Module) -> None:
    devices = {p.device for p in model.parameters()}
    if any(device.type == "meta" for device in devices):
        raise UnsupportedInputError("freeze: the model's parameters are on the meta device and have no values")
    if len(devices) > 1 or any(device.type not in ("cpu", "cuda") for device in devices):
        where = " and ".join(sorted(map(str, devices)))
        raise UnsupportedInputError(f"freeze: the model is on {where}; frozen models run on a CPU or on one CUDA GPU")
    device = next(iter(devices), torch.device("cpu"))
    missing = library.why_not("cpu") if device.type == "cpu" else None
    if missing is not None:
        raise UnsupportedInputError(f"freeze: there are no CPU kernels: {missing}")
    for name, m in model.named_modules():
        if m.training:
            raise UnsupportedInputError(
                f"freeze: {name or 'the model'} is in training mode; call model.eval() before it is frozen"
            )
    at_work = what_is_at_work(device)
    if at_work is not None:
        alone = " alone, on the CPU kernels" if device.type == "cpu" else " alone"
        raise UnsupportedInputError(f"freeze: {at_work}, and a frozen model runs{alone}")


def _refuse_frozen_parts(model: nn.Module) -> None:
    for name, m in model.named_modules():
        if isinstance(m, Frozen):
            raise UnsupportedInputError(
                f"freeze: {name or 'the model'} is frozen already: this model holds a frozen one, or lies in one; call "
                "convnextv2_fast.unfreeze of that first"
            )


def _drafter(model: nn.Module) -> Drafter:
    cls, (known, notes) = plain_class(model), _drafters()
    drafter = known.get(cls)
    if drafter is None and upstream.is_model(model):
        return upstream.draft
    if drafter is None:
        inside = [name for name, m in model.named_modules() if name and plain_class(m) in known]
        if inside:
            notes.append(f"freeze the model inside it, model.{inside[0]}")
        derived = next((base.__name__ for base in cls.__mro__[1:] if base in known), None)
        what = f"a {cls.__name__}" + (f", a class derived from {derived}" if derived else "")
        raise UnsupportedInputError(
            f"freeze: cannot freeze {what}; known are ConvNeXtV2, upstream's and timm's ConvNeXt, and transformers' "
            f"ConvNext and ConvNextV2 models{''.join(f'; {note}' for note in notes)}"
        )
    changed = forward_changed(model, cls)
    if changed is not None:
        refuse("", f"it {changed}")
    return drafter


def _drafters() -> tuple[dict[type, Drafter], list[str]]:
    """The classes that can be frozen, of the libraries that have been imported, and a note for each library whose
    version is not understood."""
    found: dict[type, Drafter] = {ours.convnextv2.ConvNeXtV2: ours.draft}
    notes = []
    for name, modules in _LIBRARIES.items():
        if any(module in sys.modules for module in modules):
            try:
                found |= importlib.import_module(f".{name}", __package__).DRAFTERS
            except (ImportError, AttributeError) as error:
                notes.append(f"this version of {name} is not known: {error}")
    return found, notes


def _release(model: nn.Module, used: dict[int, torch.Tensor]) -> None:
    for m in model.modules():
        for name, p in m._parameters.items():
            if p is not None and id(p) in used:
                m._parameters[name] = nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
