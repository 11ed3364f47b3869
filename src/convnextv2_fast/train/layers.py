"""Time spent in each part of a model, forward and backward, in the middle of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


def parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """What is timed: blocks, and what is always called as a module (a hook on others would keep them from fusing)."""
    from .parallel import BLOCKS

    for name, module in model.named_modules():
        if isinstance(module, BLOCKS) or name in ("proj", "head"):
            yield name, module


class LayerTimes:
    """Hooks on the blocks of a model. A fused block stays fused: nothing inside it is touched.

    Of a step's time the rest (waiting for images, stem, downsampling, loss, whatever lies between blocks) is
    `elsewhere`.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.order = [name for name, _ in parts(model)]
        self._marks: list[tuple[str, str, Any]] = []
        self._sums: dict[tuple[str, str], float] = {}
        self.steps = 0
        self._handles = []
        for name, module in parts(model):
            self._handles.append(module.register_forward_pre_hook(lambda m, a, n=name: self._before(n, a)))
            self._handles.append(module.register_forward_hook(lambda m, a, y, n=name: self._after(n, y)))

    def _now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _mark(self, name: str, what: str) -> None:
        self._marks.append((name, what, self._now()))

    def _before(self, name: str, args: tuple[Any, ...]) -> None:
        x = _tensor(args[0])
        if x.requires_grad:
            x.register_hook(lambda g: self._mark(name, "backward ends"))
        self._mark(name, "forward begins")

    def _after(self, name: str, y: Any) -> None:
        self._mark(name, "forward ends")
        if _tensor(y).requires_grad:
            _tensor(y).register_hook(lambda g: self._mark(name, "backward begins"))

    def start(self) -> None:
        self._mark("", "step begins")

    def stop(self) -> None:
        """After the step."""
        self._mark("", "step ends")
        if self.cuda:
            torch.cuda.synchronize()
        open_at: dict[tuple[str, str], Any] = {}
        for name, what, at in self._marks:
            phase, event = what.split()
            if event == "begins":
                open_at[name, phase] = at
            elif (name, phase) in open_at:
                begun = open_at.pop((name, phase))
                seconds = begun.elapsed_time(at) / 1e3 if self.cuda else at - begun
                self._sums[name, phase] = self._sums.get((name, phase), 0.0) + seconds
        self._marks.clear()
        self.steps += 1

    def table(self) -> list[dict[str, Any]]:
        """Milliseconds a step: a row a part, then `elsewhere` and `step`."""
        n = max(self.steps, 1)
        rows: list[dict[str, Any]] = []
        for name in self.order:
            times = {p: 1e3 * self._sums.get((name, p), 0.0) / n for p in ("forward", "backward")}
            rows.append({"part": name, **{p: round(t, 3) for p, t in times.items()}})
        whole = 1e3 * self._sums.get(("", "step"), 0.0) / n
        rest = whole - sum(r["forward"] + r["backward"] for r in rows)
        return [*rows, {"part": "elsewhere", "both": round(rest, 3)}, {"part": "step", "both": round(whole, 3)}]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


class Timing:
    """Of the layers, in `--time_layers` steps after the first few, which are slower."""

    FIRST = 3

    def __init__(self, model: nn.Module, device: torch.device, steps: int, say: Callable[[str], None]) -> None:
        self.model, self.device, self.steps, self.say = model, device, steps, say
        self.done = 0
        self.timer: LayerTimes | None = None

    def next(self) -> LayerTimes | None:
        """What times the next step."""
        if self.steps and self.done == self.FIRST:
            self.timer = LayerTimes(self.model, self.device)
        elif self.timer is not None and self.done == self.FIRST + self.steps:
            self._tell(self.timer)
        self.done += 1
        return self.timer

    def finish(self) -> None:
        """At the end of a run, which may have had fewer steps than were to be timed."""
        if self.timer is not None:
            self._tell(self.timer)
        elif self.steps and self.done <= self.FIRST:
            self.say(
                f"--time_layers {self.steps}: nothing was timed: the first {self.FIRST} steps are slower and are left "
                f"out, and there were only {self.done}"
            )

    def _tell(self, timer: LayerTimes) -> None:
        timer.remove()
        self.say(f"milliseconds a step, mean of {timer.steps}:\n{self._table(timer)}")
        self.timer = None

    @staticmethod
    def _table(timer: LayerTimes) -> str:
        rows = timer.table()
        width = max(len(row["part"]) for row in rows)
        cells = ("".join(f"  {v:9.3f} {k}" for k, v in row.items() if k != "part") for row in rows)
        return "\n".join(f"  {row['part']:<{width}}{text}" for row, text in zip(rows, cells, strict=True))


def _tensor(x: Any) -> Tensor:
    """Of a tensor, or the rows of a SparseTensor."""
    return x if isinstance(x, Tensor) else x.F
