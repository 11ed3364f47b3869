"""What a frozen model refuses: whatever would change weights that are in the program already."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..adapters._swap import Frozen
from ..adapters._swap import refuse_frozen as refuse
from ..errors import UnsupportedInputError
from .record import PROGRAM, RECORD, Record, place


def refuse_released(name: str, what: str) -> NoReturn:
    raise UnsupportedInputError(
        f"{name} is frozen and its weights were released (release_weights=True): {what}. Build the model again and "
        "load its checkpoint"
    )


class GuardedPart(Frozen):
    """The base of the classes of modules that run a program: what would change weights below them is refused."""

    def train(self, mode: bool = True) -> Any:
        if mode:
            refuse(self, "it is for inference and cannot be trained")
        return super().train(False)  # type: ignore[misc]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        record = record_of(self)
        probe = torch.empty(0, dtype=record.dtype, device=record.device)
        found = fn(probe)
        if found.dtype != probe.dtype or found.device != probe.device:
            where = f"{str(found.dtype).removeprefix('torch.')} on {found.device}"
            on = place(record.device)
            refuse(self, f"its program is for {str(record.dtype).removeprefix('torch.')} on {on}, not {where}")
        program = vars(self).get(PROGRAM)
        if isinstance(program, Tensor) and found.is_shared():
            program.share_memory_()
        act = _but_meta(fn) if record.released else fn
        return super()._apply(act, recurse)  # type: ignore[misc]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        refuse(self, "it would not see the weights of a checkpoint")


def _but_meta(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Leaves weights that were released as they are, and does `fn` to all others."""
    return lambda t: t if t.is_meta else fn(t)


class Guarded(GuardedPart):
    """The base of frozen models' classes, before the class that the model had."""

    _modules: dict[str, nn.Module | None]
    _in_the_program: tuple[str, ...] = ()
    """Attributes of the class that the program was made for."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        record = record_of(self)
        if record.released:
            refuse_released(record.name, "there is nothing to save")
        return super().state_dict(*args, **kwargs)  # type: ignore[misc]

    def __copy__(self) -> Any:
        if RECORD not in vars(self):  # its parts, which the copy shares, run the program
            refuse(self, "a copy by copy.copy shares its frozen modules; take copy.deepcopy instead")
        made = type(self).__new__(type(self))
        vars(made).update(vars(self))
        return made

    def reset_classifier(self, *args: Any, **kwargs: Any) -> None:
        refuse(self, "its head is part of the program")

    def __setattr__(self, name: str, value: Any) -> None:
        known = name in self._modules or name in vars(self)["_parameters"] or name in self._in_the_program
        if isinstance(value, nn.Module | nn.Parameter) or known:
            refuse(self, f"it would not see another {name}")
        super().__setattr__(name, value)


def record_of(model: Any) -> Record:
    """The record of a frozen model."""
    return next(vars(m)[RECORD] for m in model.modules() if RECORD in vars(m))


_making = threading.Lock()


def frozen_class(mixin: type, cls: type[nn.Module]) -> type[nn.Module]:
    """The subclass of `cls`, which is not accelerated, with the methods of `mixin`; the same one for all threads."""
    with _making:
        return _made(mixin, cls)  # type: ignore[arg-type]  # classes are hashable


@functools.cache
def _made(mixin: type, cls: type[nn.Module]) -> type[nn.Module]:
    names = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__reduce_ex__": _reduce,
        "frozen_as": (mixin, cls),
    }
    return type(cls.__name__, (mixin, cls), names)


def _reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
    """Pickles and copies refer to the mixin and the original class by name."""
    get_state = getattr(self, "__getstate__", None)  # of every object from Python 3.11 on
    return _new, type(self).frozen_as, dict(self.__dict__) if get_state is None else get_state()


def _new(mixin: type, cls: type[nn.Module]) -> nn.Module:
    made = frozen_class(mixin, cls)
    return made.__new__(made)
