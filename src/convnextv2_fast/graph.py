"""torch.fx: the modules of this library are leaves of its graphs.

`torch.fx.symbolic_trace` and what is built on it (torchvision's `create_feature_extractor`) run a model on proxies,
which have no shape, dtype or device, so that no op can choose a kernel. A graph then calls such a module as it calls
an `nn.Conv2d`; its kernels, and what was changed inside it, are looked at when the graph runs.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import Proxy

from . import plain
from .errors import UnsupportedInputError


def is_traced(x: Any) -> bool:
    """Whether x is a proxy of torch.fx."""
    return isinstance(x, Proxy)


def refuse_traced(x: Any, name: str) -> None:
    """Raises UnsupportedInputError if torch.fx or torch.jit.trace is tracing the module of that name, which no graph
    of theirs can hold."""
    if isinstance(x, Proxy) or plain.recorded_by_jit():
        raise UnsupportedInputError(
            f"{name}: torch.fx and torch.jit.trace cannot trace the sparse encoder, whose sites depend on the mask; "
            "use torch.compile or torch.export, or trace the dense ConvNeXtV2"
        )


def as_leaf(module: nn.Module, x: Any) -> Any | None:
    """The call of a module, as a node in the graph that is being traced; None where x is no proxy, or where the modules
    inside have to be traced: the root of the graph, and one with hooks, which have run already."""
    if not isinstance(x, Proxy):
        return None
    tracer: Any = x.tracer
    root = getattr(tracer, "root", None)
    own = vars(module)
    hooked = any(
        own[kind] for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    )
    if root is None or root is module or hooked:
        return None
    return tracer.create_proxy("call_module", tracer.path_of_module(module), (x,), {})
