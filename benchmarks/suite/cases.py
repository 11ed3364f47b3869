"""What is measured: the base of all cases, and one op on one shape, with its inputs and its float64 reference."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convnextv2_fast.bench.timing import Run

from . import problems
from .problems import Problem, Shape
from .roofline import Work


@dataclass
class Candidate:
    """One provider's form of a case."""

    run: Run
    outputs: Callable[[], Sequence[Tensor]]  # what the check compares
    expected: Callable[[], Sequence[Tensor]]  # with this


@dataclass(frozen=True)
class Setting:
    """Where and in which precision: "float32", "bfloat16", "float16" (all of it), or "amp" (bfloat16 autocast)."""

    device: str = "cpu"
    precision: str = "float32"
    smoke: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Of stored tensors."""
        return torch.float32 if self.precision == "amp" else getattr(torch, self.precision)

    @property
    def working_dtype(self) -> torch.dtype:
        """Of the arithmetic: what the tolerance and the ceiling go by."""
        return torch.bfloat16 if self.precision == "amp" else self.dtype

    @property
    def width(self) -> int:
        """Bytes of an activation."""
        return self.working_dtype.itemsize

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The autocast context of "amp"; nothing otherwise."""
        if self.precision == "amp":
            return torch.autocast(self.device, dtype=torch.bfloat16)
        return contextlib.nullcontext()


class Case:
    """Base of all cases. `name` is the benchmark's group; `kind` selects the providers."""

    kind: str
    images: int = 0  # per call, where images per second make sense
    is_model = False
    sets: int
    work: Work
    shared: Path | None = None  # a folder where exported models are kept, for other processes with the same case

    def __init__(self, name: str, setting: Setting, backward: bool, *, sample: str, batch: int) -> None:
        self.setting, self.backward, self.batch = setting, backward, batch
        passes = "forward_backward" if backward else "forward"
        self.name = f"{name}-{passes}-{setting.precision}-{setting.device}"
        self.what = f"{sample}-{passes}"  # the column `case` of results, which have batch and dtype of their own

    def __repr__(self) -> str:
        return self.name


class OpCase(Case):
    """One op on one shape. Backward means forward and backward together, gradients of all inputs and parameters."""

    kind = "op"

    def __init__(self, op: str, shape: Shape, setting: Setting, backward: bool = False) -> None:
        super().__init__(f"{op}-{shape}", setting, backward, sample=f"{op}-{shape.sample}", batch=shape.n)
        self.op, self.shape = op, shape
        self.work = problems.work(op, shape, setting.width, backward=backward)
        # rotate among inputs that together exceed any last-level cache
        self.sets = 1 if setting.smoke else max(2, min(8, round(256e6 / self.work.bytes)))

    @functools.cached_property
    def problems(self) -> list[Problem]:
        make = functools.partial(problems.make, self.op, self.shape, self.setting.dtype, self.setting.device)
        return [make(seed=i) for i in range(self.sets)]

    @functools.cached_property
    def gradients(self) -> list[Tensor]:
        """Of the result, one for each problem."""
        g = torch.Generator(device=self.setting.device).manual_seed(99)
        with torch.no_grad():
            like = self.problems[0].run(problems.reference(self.op), self.problems[0].tensors)
        return [torch.randn(like.shape, generator=g, device=like.device).to(like) for _ in self.problems]

    @functools.cached_property
    def expected(self) -> list[Tensor]:
        """Result, and gradients if any, of the first problem, in float64."""
        wide = [t.double() for t in self.problems[0].tensors]
        return self.evaluate(problems.reference(self.op), 0, [t.requires_grad_(self.backward) for t in wide])

    def evaluate(self, function: Callable[..., Tensor], i: int, tensors: list[Tensor], **extra: Any) -> list[Tensor]:
        """The result for problem i, followed by all gradients when backward is on."""
        if not self.backward:
            with torch.no_grad():
                return [self.problems[i].run(function, tensors, **extra)]
        y = self.problems[i].run(function, tensors, **extra)
        return [y, *torch.autograd.grad(y, tensors, self.gradients[i].to(y.dtype))]

    def leaves(self, arrange: Callable[[Tensor], Tensor] | None = None) -> list[list[Tensor]]:
        """Arguments of every set, ready for gradients; `arrange` changes the memory beneath the 4-D activations."""

        def leaf(t: Tensor) -> Tensor:
            laid = arrange(t) if arrange and t.ndim == 4 and t.shape[0] == self.shape.n else t
            return laid.detach().requires_grad_(self.backward)

        return [[leaf(t) for t in problem.tensors] for problem in self.problems]

    def candidate(
        self, function: Callable[..., Tensor], arrange: Callable[[Tensor], Tensor] | None = None, **extra: Any
    ) -> Candidate:
        """`function` takes the op's arguments, and `extra` by name."""
        leaves = self.leaves(arrange)
        return Candidate(
            lambda i: self.evaluate(function, i % self.sets, leaves[i % self.sets], **extra),
            lambda: self.evaluate(function, 0, leaves[0], **extra),
            lambda: self.expected,
        )
