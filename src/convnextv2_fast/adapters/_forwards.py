"""What the code of a `forward` reads, and whether that is all it can depend on.

A trial with random numbers shows what a function computes now. It cannot show what else the function looks at: the
mode, a random number, a size, a value that somebody changes later. Its code can. A forward qualifies if it only calls
some well-known functions of tensors and reads attributes of its module; then those attributes, and nothing else,
decide what it computes, and they can be compared in every call.
"""

from __future__ import annotations

import dis
import functools
import inspect
import types
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_FUNCTIONS = {
    # of tensors and of torch; none draws random numbers, tells the mode, a size or a value, or writes into its input
    *("add", "contiguous", "div", "mean", "mul", "norm", "permute", "pow", "rsqrt", "sqrt", "square", "sub", "sum"),
    *("transpose", "movedim", "moveaxis"),
    *("layer_norm", "linalg", "vector_norm", "nn", "functional"),
}
_REFUSED = (  # parts of the names of bytecode instructions, the same from Python 3.10 on
    *("STORE_ATTR", "STORE_GLOBAL", "STORE_NAME", "STORE_SLICE", "STORE_SUBSCR", "DELETE", "IMPORT", "LOAD_NAME"),
    *("DEREF", "CLOSURE", "MAKE_FUNCTION", "SUPER", "YIELD", "FOR_ITER", "BEFORE_WITH", "SETUP_", "RAISE", "AWAIT"),
)
_METHODS = ("__call__", "__getattr__", "__getattribute__", "_call_impl")


class Reading(NamedTuple):
    """What a class's forward reads of its module, or why that cannot be told."""

    forward: Any
    names: frozenset[str] = frozenset()
    asked: frozenset[str] = frozenset()  # strings in it where it asks whether there is such an attribute
    why: str | None = None


@functools.lru_cache(maxsize=1024)  # a session may define its classes again and again
def reading(cls: type[nn.Module], forward: Any) -> Reading:
    """Reads the code of `forward`, the one that modules of `cls` run."""
    why = _why_not_class(cls) or _why_not_function(forward)
    if why is not None:
        return Reading(forward, why=why)
    names = set()
    for step in dis.get_instructions(forward.__code__):
        if any(part in step.opname for part in _REFUSED):
            return Reading(forward, why=f"its forward has more in it than a plain expression ({step.opname})")
        if step.opname.startswith("LOAD_GLOBAL"):
            if not _is_known_global(forward, step.argval):
                return Reading(forward, why=f"its forward uses {step.argval}")
        elif step.opname.startswith(("LOAD_ATTR", "LOAD_METHOD")):
            names.add(step.argval)
    read = {name for name in names if name not in _FUNCTIONS or _has(cls, name)}
    for name in sorted(read):
        if hasattr(Tensor, name):  # its shape, its dtype: a trial has one of each
            return Reading(forward, why=f"its forward uses {name}")
        if hasattr(inspect.getattr_static(cls, name, None), "__get__"):
            return Reading(forward, why=f"its forward reads {name}, which the class computes")
    code = forward.__code__
    strings = {text for text in code.co_consts if isinstance(text, str) and text.isidentifier()}
    return Reading(forward, frozenset(read), frozenset(strings if "hasattr" in code.co_names else ()))


def require(cls: type[nn.Module], names: str) -> None:
    """Raises ImportError if the forward of a library's class uses other names than these: another version of it does
    more, or somebody has put another forward into the class."""
    code = getattr(cls.forward, "__code__", None)
    others = {"a wrapper"} if code is None else {*code.co_names} - {*names.split()}
    if others:
        raise ImportError(f"{cls.__name__}.forward uses {', '.join(sorted(others))}")


def _why_not_class(cls: type[nn.Module]) -> str | None:
    for name in _METHODS:
        if inspect.getattr_static(cls, name, None) is not inspect.getattr_static(nn.Module, name, None):
            base = inspect.getattr_static(object, name, None)
            if inspect.getattr_static(cls, name, None) is not base:
                return f"its class has a {name} of its own"
    return None


def _why_not_function(forward: Any) -> str | None:
    if type(forward) is not types.FunctionType or hasattr(forward, "__wrapped__"):
        return "its forward is wrapped in another function"
    code = forward.__code__
    if code.co_freevars or code.co_cellvars:
        return "its forward uses variables of another function, or super()"
    if code.co_argcount != 2 or code.co_kwonlyargcount or code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS):
        return "its forward takes more than one argument"
    return None


def _is_known_global(forward: Any, name: str) -> bool:
    if name in forward.__globals__:
        value = forward.__globals__[name]
        return any(value is known for known in (torch, torch.nn, torch.nn.functional, torch.linalg))
    return name == "hasattr"


def _has(cls: type, name: str) -> bool:
    """Whether modules of the class may have an attribute of that name although tensors have it too."""
    return hasattr(cls, name) and not hasattr(nn.Module, name)
