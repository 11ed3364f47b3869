"""The text of a Triton kernel and of all that it uses, without comments and wherever it lies."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import inspect
import textwrap
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Kernel:
    """A jitted kernel: its name, which another module's may have too, and the digest of its text."""

    name: str
    source: str


def digest(text: str) -> str:
    """Eight hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@functools.cache
def kernel(module: str, name: str) -> Kernel:
    """A jitted function, with the digest of its text and of all that it uses."""
    texts: dict[str, str] = {}
    add_texts(getattr(importlib.import_module(module), name), texts)
    return Kernel(name, digest("\n".join(texts[each] for each in sorted(texts))))


def add_texts(function: Any, texts: dict[str, str]) -> None:
    """The normalised text of a jitted function, of the jitted functions it calls, and of the constants they name."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function.fn)))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    texts[function.__name__] = ast.unparse(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            name, used = node.id, function.fn.__globals__.get(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = function.fn.__globals__.get(node.value.id)
            name, used = node.attr, getattr(module, node.attr, None) if isinstance(module, ModuleType) else None
        else:
            continue
        used = getattr(used, "value", used)  # of a constexpr
        if isinstance(used, int | float | str):
            texts[name] = f"{name} = {used!r}"
        elif hasattr(used, "fn") and hasattr(used, "arg_names") and name not in texts:
            add_texts(used, texts)
