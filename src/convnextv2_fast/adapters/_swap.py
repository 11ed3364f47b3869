"""Changes the class of a module and nothing else.

The new class is a subclass of the old one with another `forward`: names, parameters, hooks, `isinstance` and saved
states stay, and whoever looks the class up by name (transformers' `_no_split_modules`) finds it. It is made when it is
needed, and pickled by the class it was made from.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from .. import block_plans, pair_plans
from ..errors import UnsupportedInputError
from ..fused_modules import run_block, run_pair
from ..fusion import Pair, Parts, why_not_any
from ..graph import as_leaf

Forward = Callable[..., Any]


class Swap(NamedTuple):
    """The replacement for a class of another library: a forward, and a function that returns the parts of a module of
    the class, or the reason why it is left alone, or None if this library does not know such modules."""

    cls: type[nn.Module]
    forward: Forward
    parts: Callable[[Any], Parts | Pair | str | None]


class Accelerated:
    """Base of all classes made here."""

    accelerated_class: type[nn.Module]  # that it stands for
    written_forward: Forward  # the forward of that class at the time
    written_code: Any  # and its code


class Frozen:
    """Base of the classes that :func:`convnextv2_fast.freeze` makes."""

    frozen_as: tuple[type, type[nn.Module]]  # what else it is derived from: methods, and the class before


def refuse_frozen(module: Any, what: str) -> NoReturn:
    """Raises the error of what would change a frozen module."""
    raise UnsupportedInputError(
        f"{type(module).__name__} is frozen: {what}; call convnextv2_fast.unfreeze(model) first, and freeze it "
        "again afterwards"
    )


def refuse_weights_for_frozen(model: nn.Module) -> None:
    """Refuses a model that is frozen, or in which a module is: weights written into it would be ignored.

    Raises:
        UnsupportedInputError: it says which class is frozen.
    """
    for m in model.modules():
        if isinstance(m, Frozen):
            refuse_frozen(m, "it would not see the weights of a checkpoint")


_making = threading.Lock()


def accelerated(cls: type[nn.Module], forward: Forward) -> type[nn.Module]:
    """The subclass of `cls` with this forward, the same one for all threads."""
    with _making:
        return _made(cls, forward, cls.forward)  # type: ignore[arg-type]  # a class is hashable


@functools.cache
def _made(cls: type[nn.Module], forward: Forward, written: Forward) -> type[nn.Module]:
    names = {
        "forward": forward,
        "accelerated_class": cls,
        "written_forward": staticmethod(written),
        "written_code": getattr(written, "__code__", None),
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__reduce_ex__": functools.partialmethod(_reduce, forward),
    }
    return type(cls.__name__, (Accelerated, cls), names)


def _reduce(self: nn.Module, forward: Forward, protocol: Any) -> tuple[Any, ...]:
    """Pickles and copies refer to the original class and the forward by name."""
    get_state = getattr(self, "__getstate__", None)  # of every object from Python 3.11 on
    return _new, (original_class(self), forward), dict(self.__dict__) if get_state is None else get_state()


def _new(cls: type[nn.Module], forward: Forward) -> nn.Module:
    made = accelerated(cls, forward)
    return made.__new__(made)


def original_class(module: nn.Module) -> type[nn.Module]:
    """The class a module had before it was accelerated; its class if it is not. Asked once, so that another thread may
    restore the module meanwhile."""
    cls = type(module)
    return cls.accelerated_class if issubclass(cls, Accelerated) else cls


def original_forward(module: nn.Module, *args: Any) -> Any:
    """Runs the original forward of an accelerated module."""
    return original_class(module).forward(module, *args)


def run(module: nn.Module, found: Parts | Pair | str | None, x: Tensor, *, planned: bool = False) -> Tensor:
    """Runs an accelerated module of these parts on planes x `[N, C, H, W]`; without parts its original forward.

    Args:
        planned: whether the module may keep a plan. Not where classes are judged by their code, which may read what
            :class:`convnextv2_fast.unchanged.Unchanged` does not see.
    """
    node = as_leaf(module, x)
    if node is not None:
        return node
    if not isinstance(found, Parts | Pair) or replaced_forward(module) or why_not_any() is not None:
        return original_forward(module, x)  # which calls every module, as hooks on all modules want
    keeper = module if planned else None
    y = run_block(found, x, keeper) if isinstance(found, Parts) else run_pair(found, x, module=keeper)
    return original_forward(module, x) if y is None else y


def run_planned(module: nn.Module, parts: Callable[[Any], Parts | str | None], x: Tensor) -> Tensor:
    """:func:`run` of an accelerated block, whose parts are asked for only where it has no plan."""
    y = None if replaced_forward(module) else block_plans.run(module, x)
    return run(module, parts(module), x, planned=True) if y is None else y


def run_planned_pair(module: nn.Module, pair: Callable[[Any], Pair | str | None], x: Tensor) -> Tensor:
    """The same of a stem or downsampling layer."""
    y = None if replaced_forward(module) else pair_plans.run(module, x)
    return run(module, pair(module), x, planned=True) if y is None else y


def replaced_forward(module: nn.Module) -> bool:
    """Whether the class's own forward was replaced after :func:`accelerated`."""
    cls = type(module)
    if not issubclass(cls, Accelerated):
        return False
    forward = cls.accelerated_class.forward
    if forward is not cls.written_forward:
        return True
    return not torch.compiler.is_compiling() and getattr(forward, "__code__", None) is not cls.written_code


def is_accelerated(module: nn.Module) -> bool:
    """Whether the module's class is one made here, not one derived from it: FSDP2 and others derive their own."""
    return type(module).__mro__[1] is Accelerated


def find_pair(m: nn.Sequential, is_norm: Callable[[nn.Module], bool]) -> Pair | None:
    """Returns convolution and LayerNorm of a Sequential that consists of just these two, in either order."""
    modules = list(m._modules.values())  # children() leaves out a module's second occurrence
    if len(modules) != 2:
        return None
    a, b = modules
    if a is None or b is None:
        return None
    if type(a) is nn.Conv2d and is_norm(b):
        return Pair(a, b, (type(b),), norm_first=False)
    return Pair(b, a, (type(a),), norm_first=True) if is_norm(a) and type(b) is nn.Conv2d else None
