"""What a frozen model carries: how its program is called, and how to undo it."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .._version import __version__
from ..adapters._swap import Forward, accelerated, is_accelerated
from .op import Output
from .plan import Plan

RECORD, PROGRAM = "frozen_record", "frozen_program"
"""The attributes that hold the record and the program. The program is no buffer: conversions of the weights, and those
who pair the buffers of two models, shall not reach it."""


@dataclass(frozen=True)
class Call:
    """Which results of a program make one result of the model."""

    path: tuple[str, str]  # on a GPU, what is called for it: a module that the program stands for, and what of it
    wanted: list[int]  # as the operator takes them, no step twice
    maps: tuple[bool, ...]  # of each, whether it is a map
    places: tuple[int, ...]  # of each result of the model, its place in them

    @classmethod
    def of(cls, path: tuple[str, str], *outputs: Output) -> Call:
        steps = list(dict.fromkeys(outputs))
        return cls(
            path,
            [int(number) for output in steps for number in output],
            tuple(output.is_map for output in steps),
            tuple(steps.index(output) for output in outputs),
        )


class Seen:
    """The parameters and modules that a module had when it was frozen, with those of all modules in it.

    It keeps the dictionaries in which PyTorch holds them, and copies of these: comparing those is one expression that
    compares objects by identity, without a loop in Python. Copies and pickles of a model keep the relation.
    """

    def __init__(self, module: nn.Module) -> None:
        tables = (table for m in module.modules() for table in (m._parameters, m._modules))
        self._live: list[dict[str, Any]] = [table for table in tables if table]
        self._then = [dict(table) for table in self._live]

    def is_still_there(self) -> bool:
        """Whether each of them is the same object as then, or may be another since :meth:`retire`."""
        try:
            if self._live == self._then:
                return True
        except Exception:  # other tensors were compared by value, which may fail in many ways
            pass
        return self in _retired

    def retire(self) -> None:
        """Lets calls that have begun end while freeze moves parameters. Copies of the model are none of them."""
        _retired.add(self)


_retired: weakref.WeakSet[Seen] = weakref.WeakSet()


@dataclass(frozen=True)
class Record:
    """Kept on a module whose forward runs the program, or a part of it."""

    name: str  # the model's class
    dtype: torch.dtype
    device: torch.device
    channels: int  # of what it takes: images, or maps
    least: int  # positions, along each edge
    calls: dict[str, Call]
    start: int = 0  # the first step that runs
    released: bool = False
    forwards: dict[str, Forward | None] = field(default_factory=dict)
    """The modules whose class was changed, by name, and the forward of those that were accelerated before."""
    seen: Seen | None = field(default=None, repr=False, compare=False)
    version: str = __version__  # of this library, another of which may order packed weights otherwise


@dataclass(frozen=True)
class Part:
    """The steps that one module runs; see :class:`Record`."""

    channels: int
    least: int
    calls: dict[str, Call]
    start: int = 0


@dataclass(frozen=True)
class Draft:
    """What a family's file makes of a model."""

    plan: Plan
    parts: dict[str, Part]  # by the name of the module
    mixins: dict[str, type]
    """By the name of the module, what the class of it that freeze makes is derived from, beside its own."""


def place(device: torch.device) -> str:
    """A device in words."""
    return "the CPU" if device.type == "cpu" else str(device)


def forward_before(m: nn.Module) -> Forward | None:
    """The forward that an accelerated module has; None for another."""
    return getattr(type(m), "forward") if is_accelerated(m) else None  # noqa: B009  # mypy takes it for a method


def give_back(m: nn.Module, mixed: Any, forward: Forward | None) -> None:
    """Gives a module the class that it had before it was frozen."""
    m.__class__ = mixed if forward is None else accelerated(mixed, forward)
