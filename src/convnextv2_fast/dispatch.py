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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import preferences
from .errors import UnsupportedInputError

logger = logging.getLogger("convnextv2_fast")

NAMES = ("auto", "cuda", "triton", "cpu", "torch")
ENVIRONMENT = "CONVNEXTV2_FAST_BACKEND"


class Spec(NamedTuple):
    """The properties of a call by which a backend decides whether it can run it."""

    op: str
    device: str  # device type: "cpu", "cuda", ...
    dtype: torch.dtype  # of the activations
    param_dtype: torch.dtype | None  # of the parameters; None when they differ among themselves
    channels: int
    layout: str  # "dense", "patch" or "site"
    needs_grad: bool

    @classmethod
    def of(cls, op: str, x: Tensor, *params: Tensor | None, layout: Any = None) -> Spec:
        """The spec of ``op`` called on activations ``x`` `[..., C]` with ``params`` and a layout (None: dense)."""
        param_dtype: torch.dtype | None = x.dtype
        needs_grad = x.requires_grad
        first = True
        for p in params:
            if p is None:
                continue
            needs_grad = needs_grad or p.requires_grad
            if first:
                param_dtype, first = p.dtype, False
            elif p.dtype != param_dtype:
                param_dtype = None
        kind = "dense" if layout is None else layout.kind
        return cls(op, x.device.type, x.dtype, param_dtype, x.shape[-1], kind, needs_grad and torch.is_grad_enabled())

    def describe(self) -> str:
        params = "mixed" if self.param_dtype is None else str(self.param_dtype).removeprefix("torch.")
        return (
            f"{str(self.dtype).removeprefix('torch.')} activations ({params} parameters), C={self.channels}, "
            f"{self.layout} layout, {self.device}, {'with' if self.needs_grad else 'without'} gradients"
        )


@dataclass(frozen=True)
class Implementation:
    """One backend of one op. ``reasons(spec)`` lists, a sentence each, why it cannot run; empty: it can.

    With ``automatic=False`` it runs only when asked for: a kernel that has not been measured faster, or proven, yet."""

    backend: str
    run: Any
    reasons: Callable[[Spec], list[str]]
    automatic: bool = True
    notes: Callable[[Spec], list[str]] | None = None  # lines for `explain` on how it would run


def always(spec: Spec) -> list[str]:
    """The predicate of the reference, which can run every call."""
    return []


_registry: dict[str, tuple[Implementation, ...]] = {}
# A plain module global, not a ContextVar: torch.compile guards on it and can trace it.
_overrides: tuple[tuple[str | None, str], ...] = ()


def register(op: str, implementations: Sequence[Implementation]) -> None:
    """Registers the ordered implementations of ``op``; the last one must be the reference ``"torch"``."""
    if not implementations or implementations[-1].backend != "torch":
        raise ValueError(f"{op}: the last implementation must be 'torch', the reference")
    _registry[op] = tuple(implementations)


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
    for only, name in reversed(_overrides):
        if only is None or only == op:
            return name, "use_backend"
    return _check_name(os.environ.get(ENVIRONMENT, "auto") or "auto", ENVIRONMENT), "environment"


def free_for(backend: str, *ops: str) -> bool:
    """Whether neither context nor environment asks for a backend other than `backend` for these ops."""
    if not _overrides and ENVIRONMENT not in os.environ:
        return True
    return all(_requested(op, None)[0] in ("auto", backend) for op in ops)


def choose(spec: Spec, backend: str | None = None) -> Implementation:
    """The implementation that will run ``spec``.

    An explicit choice that cannot run raises. A context or environment choice applies to the ops that have such a
    backend; an op without one keeps the automatic choice.

    Raises:
        UnsupportedInputError: the chosen backend cannot run this input; the message lists every reason.
        ValueError: unknown backend or op.
    """
    candidates = implementations(spec.op)
    name, origin = _requested(spec.op, backend)
    if name != "auto":
        for candidate in candidates:
            if candidate.backend == name:
                reasons = candidate.reasons(spec)
                if reasons:
                    raise UnsupportedInputError(_refusal(spec, name, reasons))
                return candidate
        if origin == "argument":
            raise UnsupportedInputError(_refusal(spec, name, [f"{spec.op} has no {name} implementation yet"]))
    for candidate in preferences.order(spec, candidates):
        reasons = candidate.reasons(spec) if candidate.automatic else ["it runs only when asked for"]
        if not reasons:
            return candidate
        if not torch.compiler.is_compiling():
            logger.debug("%s: not %s: %s", spec.op, candidate.backend, "; ".join(reasons))
    raise AssertionError("the reference runs everything")


def _refusal(spec: Spec, name: str, reasons: list[str]) -> str:
    able = [c for c in preferences.order(spec, implementations(spec.op)) if c.backend != name and not c.reasons(spec)]
    auto = next(c.backend for c in able if c.automatic)
    return (
        f"{spec.op}: backend {name!r} cannot run {spec.describe()}: {'; '.join(reasons)}. "
        f"These can: {', '.join(c.backend for c in able)} (backend='auto' takes {auto!r})."
    )


@contextlib.contextmanager
def use_backend(name: str, op: str | None = None) -> Iterator[None]:
    """Within the block, ops run on backend ``name`` (only ``op``, if given). Process-wide, like torch.backends flags.

    Raises:
        ValueError: unknown backend or op.
    """
    global _overrides
    _check_name(name, "use_backend")
    if op is not None:
        implementations(op)
    before = _overrides
    _overrides = (*before, (op, name))
    try:
        yield
    finally:
        _overrides = before


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


def explain(op: str, x: Tensor, *params: Tensor | None, layout: Any = None, backend: str | None = None) -> Explanation:
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
    return explain_spec(Spec.of(op, x, *params, layout=layout), backend)


def explain_spec(spec: Spec, backend: str | None = None) -> Explanation:
    """:func:`explain` for a call that is described rather than at hand.

    Raises:
        ValueError: unknown op or backend.
    """
    reasons = {c.backend: c.reasons(spec) for c in implementations(spec.op)}
    requested, origin = _requested(spec.op, backend)
    notes: tuple[str, ...] = ()
    try:
        implementation = choose(spec, backend)
        chosen: str | None = implementation.backend
        notes = tuple(implementation.notes(spec)) if implementation.notes else ()
        row = preferences.find(spec.op, spec.layout, preferences.family()) if spec.device == "cuda" else None
        if row is not None and requested == "auto":
            notes = (f"{row.backend} is tried first ({row.source})", *notes)
    except UnsupportedInputError:
        chosen = None
        reasons.setdefault(requested, [f"{spec.op} has no {requested} implementation yet"])
    return Explanation(spec, chosen, requested, origin, reasons, notes)


def backends() -> dict[str, list[str]]:
    """For each backend, why it cannot run on this machine; an empty list means that it can."""
    from . import library

    missing = {"cuda": library.why_not("cuda"), "triton": library.triton_why_not(), "cpu": library.why_not("cpu")}
    found: dict[str, list[str]] = {name: [why] if why else [] for name, why in missing.items()}
    if not torch.cuda.is_available():
        found["cuda"] = found["cuda"] or ["torch sees no CUDA device"]
        if not library.TRITON_INTERPRETED:
            found["triton"] = found["triton"] or ["torch sees no GPU"]
    found["torch"] = []
    return found
