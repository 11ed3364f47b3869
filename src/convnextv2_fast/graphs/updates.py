"""The end of a training step: clipping, optimizer, loss scale, moving average. One graph."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

from . import averages, wrappers
from .calls import Call, settings
from .gradients import Gradients
from .optimizers import OnDevice
from .shelf import Shelf
from .watch import Memory


class Update:
    """What follows the gradients in a step.

    Args:
        model: as it is called: bare, or wrapped.
        scaler: of float16, or one that is not enabled.
        clip_grad: the largest norm of the gradient.
        shelf: its graphs.
        gradients: those that it reads.
        tell: hears why something runs eagerly.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        ema: Any,
        clip_grad: float | None,
        shelf: Shelf,
        gradients: Gradients,
        tell: Callable[[str], None],
    ) -> None:
        self.model, self.optimizer, self.scaler, self.ema, self.clip_grad = model, optimizer, scaler, ema, clip_grad
        self.form = OnDevice(optimizer, shelf.device)
        self._shelf, self._gradients, self._tell = shelf, gradients, tell
        self._held: Memory | None = None
        self._last_key: Hashable = None
        self._changes = 0  # in a row, of its numbers

    def __call__(self, average: bool) -> Tensor | None:
        """What the graph holds. Returns the gradient's norm, where it is clipped.

        Args:
            average: update the moving average, too.
        """
        norm: Any = None
        try:
            if self.clip_grad:
                self.scaler.unscale_(self.optimizer)
                norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad)
                norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
            self.scaler.step(self.optimizer)
            self.scaler.update()
        except BaseException:
            if self.scaler.is_enabled():  # else every later step is one too many for it
                self.scaler._per_optimizer_states.clear()
            raise
        if average and self.ema is not None:
            self.ema.update(wrappers.bare(self.model))
        return norm

    def on_device(self, graphed: bool) -> Tensor | None:
        """An update in the form that a graph can hold, replayed or, if not `graphed`, called; where there is no such
        form, it is called as it is. Returns the gradient's norm."""
        reason = self.why_not()
        if reason:
            self._tell(f"{reason} (the update alone)")
            return self(average=True)
        beside = averages.why_not(self.ema, self._shelf.device) if self.ema is not None else None
        if beside:
            self._tell(f"{beside} (the moving average alone)")
        average = self.ema is not None and not beside
        self.form.fill()
        norm = self._graphed(average) if graphed else self._formed(average)
        if beside:
            self.ema.update(wrappers.bare(self.model))
        return norm

    def why_not(self) -> str | None:
        """Why no graph can hold it; None: one can."""
        return self.form.why_not(self.scaler.is_enabled())

    def left(self) -> int:
        """Updates with these numbers that will still be eager."""
        return self._shelf.left(self._key())

    def moved(self) -> bool:
        """Whether weights, or the optimizer's state, got other memory than the graphs have."""
        return self._held is not None and self._held.changed()

    def clear(self) -> None:
        """Forgets the graphs."""
        self._shelf.clear()
        self._held = None

    def _key(self) -> Hashable:
        """Equal for updates that one graph may serve."""
        scaler = self.scaler
        scale: tuple[Any, ...] = ()
        if scaler.is_enabled():
            scale = (scaler.get_growth_factor(), scaler.get_backoff_factor(), scaler.get_growth_interval())
        average = averages.numbers(self.ema) if self.ema is not None else ()
        numbers = self.form.numbers(), self.clip_grad, scale, average, self._gradients.generation
        return numbers, settings(self._shelf.device)

    def _formed(self, average: bool) -> Tensor | None:
        with self.form.entered():
            return self(average)

    def _graphed(self, average: bool) -> Tensor | None:
        key = self._key()
        self._changes = 0 if key == self._last_key else self._changes + 1
        self._last_key = key
        if self._changes > self._shelf.most:
            self._tell("weight decay, or another number of the update, changes from step to step (the update alone)")
        found, static = self._shelf.run(key, Call.of(()), lambda _: self._formed(average))
        if not static:  # what is there now, a graph may be made of; what is made later, it would make in each replay
            self._held = Memory(self._tensors)
        norm: Tensor | None = found
        return norm.clone() if static and norm is not None else norm

    def _tensors(self) -> list[Tensor]:
        scale = (getattr(self.scaler, name, None) for name in ("_scale", "_growth_tracker"))
        return [*self.form.tensors(), *(t for t in scale if t is not None)]
