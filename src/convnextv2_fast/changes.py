"""What was changed on a module that takes effect only if the module is called: hooks, another forward, parameters that
act when they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_PLAIN = (nn.Parameter, Tensor, type(None))
_TORCH_FUNCTIONS = (nn.Parameter.__torch_function__, getattr(Tensor.__torch_function__, "__func__", None))
_CALL = nn.Module.__call__
_forwards: dict[type, tuple[Any, Any]] = {}
"""The forward that each class was written with, and its code; they are kept when the class is first seen."""


def touched(m: nn.Module) -> str | None:
    """Returns in words what was changed on a module (a hook, a forward of its own) that takes effect only if the module
    is called; None if nothing was."""
    own = m.__dict__  # faster than m's attributes, and written out here, as every call asks this of every module
    if own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]:
        return "has hooks"
    cls: Any = type(m)
    if "forward" in own or not _is_written(cls):
        changed = forward_changed(m, cls)
        if changed is not None:
            return changed
    for p in own["_parameters"].values():
        if type(p) not in _PLAIN and _acts(p):
            return f"has a parameter of class {type(p).__name__}"
    return None


def acting_parameter(m: nn.Module) -> str | None:
    """Returns in words that a module itself has a parameter that does something of its own when it is used; None if it
    has none."""
    for p in m.__dict__["_parameters"].values():
        if type(p) not in _PLAIN and _acts(p):
            return f"has a parameter of class {type(p).__name__}"
    return None


def has_hooks(m: nn.Module, accepted: Callable[[Any], bool] | None = None) -> bool:
    """Whether hooks run before or after a module's forward or backward.

    Args:
        accepted: tells which forward hooks do not count.
    """
    own = vars(m)
    if own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]:
        return True
    hooks = list(own["_forward_hooks"].values())  # at once, as other threads may add some
    return bool(hooks) if accepted is None else not all(accepted(hook) for hook in hooks)


def forward_changed(m: nn.Module, cls: Any) -> str | None:
    """Returns in words what stands in the place of the forward that the module's class `cls` was written with."""
    if "forward" in m.__dict__:
        return "has a forward of its own"
    if cls not in _forwards and torch.compiler.is_compiling():  # which cannot follow what is done here
        return None
    if cls not in _forwards:
        _original_forward(cls)
    return None if _is_written(cls) else "has a class whose forward was replaced"


def accept_forward(cls: Any) -> None:
    """Has the forward that a class has now count as the one it was written with: its caller has read it."""
    if not _is_written(cls):
        _keep(cls, cls.forward)


def _original_forward(cls: type) -> None:
    home = next(base for base in cls.__mro__ if "forward" in vars(base))
    forward = vars(home)["forward"]
    name = (getattr(forward, "__module__", None), getattr(forward, "__qualname__", None))
    written = name == (home.__module__, f"{home.__qualname__}.forward") and not hasattr(forward, "__wrapped__")
    _keep(cls, forward if written else None)


def _keep(cls: type, forward: Any) -> None:
    _forwards[cls] = (forward, getattr(forward, "__code__", None))


def _is_written(cls: Any) -> bool:
    """Whether a class has the forward that was kept of it, with the code it had, as reloading puts other code into the
    same function; and whether a call of its modules leads there."""
    kept = _forwards.get(cls)
    if kept is None or cls.forward is not kept[0]:
        return False
    if torch.compiler.is_compiling():  # which cannot follow the rest, and guards on the code that it has seen
        return True
    return getattr(kept[0], "__code__", None) is kept[1] and cls.__call__ is _CALL


def _acts(p: Tensor) -> bool:
    """Whether a tensor does something of its own when it is used: quantised or distributed ones, for example. Those of
    torch.compile and torch.export do not, and have to pass."""
    own = getattr(type(p).__torch_function__, "__func__", type(p).__torch_function__)
    return is_traceable_wrapper_subclass(p) or own not in _TORCH_FUNCTIONS


def remember(*classes: type) -> None:
    """Keeps the forward of classes that the ops can stand for. torch.compile cannot follow how that is done, so it is
    done before."""
    for cls in classes:
        if cls not in _forwards:
            _original_forward(cls)


remember(nn.Conv2d, nn.Dropout, nn.GELU, nn.Identity, nn.LayerNorm, nn.Linear, nn.Sequential)
