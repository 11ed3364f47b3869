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
_OPERATORS = ("+", "-", "*", "/", "**")
_OLD_OPERATORS = tuple(
    f"{kind}_{name}"
    for kind in ("BINARY", "INPLACE")
    for name in ("FLOOR_DIVIDE", "MODULO", "LSHIFT", "RSHIFT", "AND", "OR", "XOR", "MATRIX_MULTIPLY")
)
_METHODS = ("__call__", "__getattr__", "__getattribute__", "_call_impl")


class Reading(NamedTuple):
    """What a class's forward reads of its module, or why that cannot be told."""

    forward: Any
    code: Any  # of the forward
    names: frozenset[str] = frozenset()
    asked: frozenset[str] = frozenset()  # strings in it where it asks whether there is such an attribute
    why: str | None = None


@functools.lru_cache(maxsize=1024)  # a session may define its classes again and again
def reading(cls: type[nn.Module], forward: Any, code: Any) -> Reading:
    """Reads `code`, that of `forward`, the one that modules of `cls` run."""
    why = _why_not_class(cls) or _why_not_function(forward)
    if why is not None:
        return Reading(forward, code, why=why)
    names = set()
    steps = list(dis.get_instructions(code))
    for step in steps:
        if any(part in step.opname for part in _REFUSED):
            return Reading(forward, code, why=_more(step))
        if step.opname.startswith("LOAD_GLOBAL"):
            if not _is_known_global(forward, step.argval):
                return Reading(forward, code, why=f"its forward uses {step.argval}")
        elif step.opname.startswith(("LOAD_ATTR", "LOAD_METHOD")):
            names.add(step.argval)
    read = {name for name in names if name not in _FUNCTIONS or _has(cls, name)}
    for name in sorted(read):
        if hasattr(Tensor, name):  # its shape, its dtype: a trial has one of each
            return Reading(forward, code, why=f"its forward uses {name}")
        if hasattr(inspect.getattr_static(cls, name, None), "__get__"):
            return Reading(forward, code, why=f"its forward reads {name}, which the class computes")
    odd = next((step for i, step in enumerate(steps) if not _is_plain(steps, i)), None)
    if odd is not None:
        return Reading(forward, code, why=_more(odd))
    strings = {text for text in code.co_consts if isinstance(text, str) and text.isidentifier()}
    return Reading(forward, code, frozenset(read), frozenset(strings if "hasattr" in code.co_names else ()))


def _more(step: dis.Instruction) -> str:
    what = f"{step.opname} {step.argrepr}".strip()
    return f"its forward has more in it than a plain expression ({what})"


def _is_plain(steps: list[dis.Instruction], i: int) -> bool:
    """Whether an operator depends on neither sizes nor values: `+ - * / **`, an index of whole dimensions and new ones
    (`[:, None]`), a comparison with a text. Others, as `x < 50` and `x[:64]`, may show nothing in a trial."""
    step = steps[i]
    if step.opname == "COMPARE_OP":
        return isinstance(_constant(steps, i - 1), str) or isinstance(_constant(steps, i - 2), str)
    if step.opname == "CONTAINS_OP":  # `self.data_format in ("channels_last", ...)`
        return True
    if step.opname == "BINARY_OP" and step.argrepr != "[]":
        return step.argrepr.rstrip("=") in _OPERATORS
    if step.opname in ("BUILD_SLICE", "BINARY_SLICE"):
        return step.arg in (None, 2) and _constant(steps, i - 1) is None and _constant(steps, i - 2) is None
    if step.opname == "BINARY_SUBSCR" or step.opname == "BINARY_OP":
        return _is_whole_index(steps, i - 1)
    return step.opname not in _OLD_OPERATORS  # of Python 3.10


def _is_whole_index(steps: list[dis.Instruction], i: int) -> bool:
    if steps[i].opname == "BUILD_TUPLE":
        number, i = steps[i].arg or 0, i - 1
        for _ in range(number):
            if not _is_whole_index(steps, i):
                return False
            i -= 3 if steps[i].opname == "BUILD_SLICE" else 1
        return True
    if steps[i].opname == "BUILD_SLICE":  # judged by itself
        return True
    value = _constant(steps, i)
    parts = value if isinstance(value, tuple) else (value,)
    return all(part is None or part is Ellipsis or part == slice(None) for part in parts)


def _constant(steps: list[dis.Instruction], i: int) -> Any:
    """The constant that a step loads; the step itself if it loads none."""
    return steps[i].argval if steps[i].opname.startswith(("LOAD_CONST", "RETURN_CONST")) else steps[i]


def require(cls: type[nn.Module], names: str) -> None:
    """Raises ImportError if the forward of a library's class uses other names than these: another version of it does
    more, or somebody has put another forward into the class."""
    require_names(cls.forward, names)


def require_names(function: Any, names: str) -> None:
    """As :func:`require`, for any function of a library."""
    code = getattr(function, "__code__", None)
    others = {"a wrapper"} if code is None else {*code.co_names} - {*names.split()}
    if others:
        raise ImportError(f"{getattr(function, '__qualname__', function)} uses {', '.join(sorted(others))}")


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
