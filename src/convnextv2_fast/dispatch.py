"""Which implementation of an op runs: argument > context > environment > automatic.

Every op owns an ordered list of :class:`Implementation`; the first whose ``reasons(spec)`` is empty runs. On a GPU
:mod:`preferences` says which is tried first.
The same predicate serves the automatic choice (DEBUG log), the error of an explicit choice, the skip reason
of a test and the table printed by :func:`explain`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from . import library, plain, preferences
from .errors import UnsupportedInputError
from .spec import Implementation, Spec

if TYPE_CHECKING:
    from .layouts import Layout

logger = logging.getLogger("convnextv2_fast")

NAMES = ("auto", "cuda", "triton", "cpu", "torch", "composed")
_RUN_EVERYTHING = ("torch", "composed")  # plain PyTorch, or ops that have it
ENVIRONMENT = "CONVNEXTV2_FAST_BACKEND"


_registry: dict[str, tuple[Implementation, ...]] = {}


class _Override(NamedTuple):
    op: str | None  # None: every op
    backend: str


class _Overrides(threading.local):
    """What :func:`use_backend` asked for in this thread. torch.compile guards on an instance's attribute, of the thread
    that calls; it cannot trace a ContextVar, and would take a class's attribute for a constant."""

    def __init__(self) -> None:
        self.stack: tuple[_Override, ...] = ()

    def __repr__(self) -> str:
        return repr(self.stack)


_overrides = _Overrides()
_specs: dict[str, Callable[..., Spec]] = {}


def register(op: str, implementations: Sequence[Implementation], spec: Callable[..., Spec] | None = None) -> None:
    """Registers the ordered implementations of ``op``; the last one must run every call: ``"torch"``, the reference, or
    ``"composed"`` of other ops. ``spec(x, *params, layout=)`` makes its specs, if :meth:`Spec.of` does not."""
    if not implementations or implementations[-1].backend not in _RUN_EVERYTHING:
        raise ValueError(f"{op}: the last implementation must be 'torch', the reference, or 'composed' of other ops")
    _registry[op] = tuple(implementations)
    if spec is not None:
        _specs[op] = spec


def spec_of(op: str, x: Tensor, *params: Tensor | None, layout: Layout | None = None) -> Spec:
    """The spec of a call of ``op`` with these tensors."""
    return _specs[op](x, *params, layout=layout) if op in _specs else Spec.of(op, x, *params, layout=layout)


def registered_ops() -> tuple[str, ...]:
    """Names of all ops."""
    return tuple(_registry)


def implementations(op: str) -> tuple[Implementation, ...]:
    """The implementations of ``op``, preferred first.

    Raises:
        ValueError: for an unknown op.
    """
    if op not in _registry:
        raise ValueError(f"unknown op {op!r}: the ops are {', '.join(_registry)}")
    return _registry[op]


def _check_name(name: str, origin: str) -> str:
    if name not in NAMES:
        raise ValueError(f"unknown backend {name!r} ({origin}): choose one of {', '.join(NAMES)}")
    return name


def _requested(op: str, backend: str | None) -> tuple[str, str]:
    """Returns the backend that was asked for, and where (argument, context or environment)."""
    if backend is not None:
        return _check_name(backend, "argument backend="), "argument"
    for only, name in reversed(_overrides.stack):
        if only is None or only == op:
            return name, "use_backend"
    if ENVIRONMENT not in os.environ:
        return "auto", "environment"
    return _check_name(os.environ[ENVIRONMENT] or "auto", ENVIRONMENT), "environment"


def requested(*ops: str) -> list[tuple[str, str]]:
    """For which of these ops context or environment ask for a backend, and which: `(op, backend)`."""
    if not _overrides.stack and ENVIRONMENT not in os.environ:
        return []
    names = [(op, _requested(op, None)[0]) for op in ops]
    return [(op, name) for op, name in names if name != "auto"]


_Asked = tuple[Any, ...]
_chosen: dict[tuple[Spec, str | None, _Asked], Implementation] = {}
_chosen_of: list[tuple[Implementation, ...]] = []  # the registered implementations at the time
# The environment's own dictionary: asking os.environ itself encodes the name in every call.
_environment: Any = getattr(os.environ, "_data", os.environ)
_ENVIRONMENT_KEY: Any = os.environ.encodekey(ENVIRONMENT) if _environment is not os.environ else ENVIRONMENT


def asked() -> _Asked:
    """What context and environment ask for now, whatever the op; equal answers lead to equal choices."""
    return _overrides.stack, _environment.get(_ENVIRONMENT_KEY)


def registered() -> list[tuple[Implementation, ...]]:
    """The implementations of all ops."""
    return list(_registry.values())


def choose(spec: Spec, backend: str | None = None) -> Implementation:
    """The implementation that will run ``spec``.

    An explicit choice that cannot run raises. A context or environment choice applies to the ops that have such a
    backend; an op without one keeps the automatic choice. On GPUs, whose driver would be asked in every call, a choice
    is kept for as long as what it depends on is the same.

    Raises:
        UnsupportedInputError: the chosen backend cannot run this input; the message lists every reason.
        ValueError: unknown backend or op.
    """
    closed = plain.why(spec.device)
    if spec.device != "cuda" or closed is not None or torch.compiler.is_compiling():
        return _choose(spec, backend, closed)
    if _chosen_of != (now := registered()):
        _chosen.clear()
        _chosen_of[:] = now
    key = (spec, backend, asked())
    found = _chosen.get(key)
    if found is None:
        found = _chosen[key] = _choose(spec, backend, None)
    return found


def _choose(spec: Spec, backend: str | None, closed: str | None) -> Implementation:
    candidates = implementations(spec.op)
    name, origin = _requested(spec.op, backend)
    if name != "auto":
        composed = candidates[-1] if candidates[-1].backend == "composed" else None  # its ops obey, or refuse
        for candidate in candidates:
            if candidate.backend == name:
                reasons = _reasons(candidate, spec, closed)
                if not reasons:
                    return candidate
                if composed is None:
                    raise UnsupportedInputError(_refusal(spec, name, reasons))
        if composed is not None:
            return composed
        if origin == "argument":
            raise UnsupportedInputError(_refusal(spec, name, [f"{spec.op} has no {name} implementation yet"]))
    for candidate in preferences.order(spec, candidates):
        reasons = _reasons(candidate, spec, closed) if candidate.automatic else ["it runs only when asked for"]
        if not reasons:
            return candidate
        if not torch.compiler.is_compiling():
            logger.debug("%s: not %s: %s", spec.op, candidate.backend, "; ".join(reasons))
    raise AssertionError("the last implementation runs everything")


def _reasons(candidate: Implementation, spec: Spec, closed: str | None) -> list[str]:
    """Why it cannot run this call; `closed`: of :func:`plain.why`."""
    if closed is not None and candidate.backend not in _RUN_EVERYTHING:
        return [closed, *candidate.reasons(spec)]
    return candidate.reasons(spec)


def check_traceable(op: str, backend: str | None) -> None:
    """Refuses a backend that is asked for while torch.jit.trace records, when only plain PyTorch may run.

    Raises:
        UnsupportedInputError: for another backend.
        ValueError: for an unknown one.
    """
    name, _ = _requested(op, backend)
    if name not in ("auto", *_RUN_EVERYTHING):
        raise UnsupportedInputError(f"{op}: backend {name!r} cannot run: {plain.JIT}. backend='torch' can.")


def _refusal(spec: Spec, name: str, reasons: list[str]) -> str:
    closed = plain.why(spec.device)
    able = [
        candidate
        for candidate in preferences.order(spec, implementations(spec.op))
        if candidate.backend != name and not _reasons(candidate, spec, closed)
    ]
    auto = next(c.backend for c in able if c.automatic)
    return (
        f"{spec.op}: backend {name!r} cannot run {spec.describe()}: {'; '.join(reasons)}. "
        f"These can: {', '.join(c.backend for c in able)} (backend='auto' takes {auto!r})."
    )


@contextlib.contextmanager
def use_backend(name: str, op: str | None = None) -> Iterator[None]:
    """Within the block, ops run on backend ``name`` (only ``op``, if given), in the thread that entered it.

    Other threads are not touched; one that you start inside the block begins without it. Of blocks that overlap, as
    those of asyncio's tasks do, each takes back what it asked for, whatever ends first.

    Raises:
        ValueError: unknown backend or op.
    """
    _check_name(name, "use_backend")
    if op is not None:
        implementations(op)
    mine = _Override(op, name)
    _overrides.stack = (*_overrides.stack, mine)
    try:
        yield
    finally:
        _overrides.stack = tuple([asked for asked in _overrides.stack if asked is not mine])


def recomputing() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    """For torch.utils.checkpoint's `context_fn`: backward may recompute in a thread of its own, as it does for CUDA,
    and must ask for the backends that forward was asked for."""
    return contextlib.nullcontext(), _AsAsked(_overrides.stack)


class _AsAsked:
    """A context in which what was asked for is `stack`. It is entered once for each backward pass of a graph."""

    def __init__(self, stack: tuple[_Override, ...]) -> None:
        self._stack = stack
        self._before: list[tuple[_Override, ...]] = []

    def __enter__(self) -> None:
        self._before.append(_overrides.stack)
        _overrides.stack = self._stack

    def __exit__(self, *_: object) -> None:
        _overrides.stack = self._before.pop()


@dataclass(frozen=True)
class Explanation:
    """The result of :func:`explain`: the backend that runs, and why the others do not."""

    spec: Spec
    chosen: str | None
    requested: str
    origin: str
    reasons: dict[str, list[str]]
    notes: tuple[str, ...] = ()  # on how the chosen backend runs it

    def __str__(self) -> str:
        head = f"{self.spec.op}: {self.spec.describe()}"
        asked = "automatic choice" if self.requested == "auto" else f"{self.requested!r} asked for by {self.origin}"
        lines = [head, f"  runs on: {self.chosen or 'nothing, an error is raised'} ({asked})"]
        for backend, reasons in self.reasons.items():
            if backend != self.chosen:
                lines.append(f"  not {backend}: {'; '.join(reasons) or 'it can, if asked for'}")
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)


def explain(
    op: str, x: Tensor, *params: Tensor | None, layout: Layout | None = None, backend: str | None = None
) -> Explanation:
    """Which backend runs ``op`` on these tensors, and why not the others. Nothing is computed.

    Args:
        op: name of a public op, such as ``"dwconv_layer_norm"``.
        x: activations `[..., C]`.
        params: the op's parameters, as many as are at hand.
        layout: a :mod:`convnextv2_fast.layouts` layout; None for dense.
        backend: an explicit choice to explain.
    Raises:
        ValueError: unknown op or backend.
    """
    implementations(op)
    return explain_spec(spec_of(op, x, *params, layout=layout), backend)


def explain_spec(spec: Spec, backend: str | None = None) -> Explanation:
    """:func:`explain` for a call that is described rather than at hand.

    Raises:
        ValueError: unknown op or backend.
    """
    closed = plain.why(spec.device)
    reasons = {c.backend: _reasons(c, spec, closed) for c in implementations(spec.op)}
    requested, origin = _requested(spec.op, backend)
    notes: tuple[str, ...] = ()
    try:
        implementation = choose(spec, backend)
        chosen: str | None = implementation.backend
        notes = tuple(implementation.notes(spec)) if implementation.notes else ()
        row = preferences.of(spec)
        if row is not None and requested == "auto":
            notes = (f"{row.backend} is tried first ({row.source})", *notes)
    except UnsupportedInputError:
        chosen = None
        reasons.setdefault(requested, [f"{spec.op} has no {requested} implementation yet"])
    return Explanation(spec, chosen, requested, origin, reasons, notes)


def backends() -> dict[str, list[str]]:
    """For each backend, why it cannot run on this machine; an empty list means that it can."""
    missing = {"cuda": library.why_not("cuda"), "triton": library.triton_why_not(), "cpu": library.why_not("cpu")}
    found: dict[str, list[str]] = {name: [why] if why else [] for name, why in missing.items()}
    if not torch.cuda.is_available():
        found["cuda"] = found["cuda"] or ["torch sees no CUDA device"]
        if not library.TRITON_INTERPRETED:
            found["triton"] = found["triton"] or ["torch sees no GPU"]
    found["torch"] = []
    return found
