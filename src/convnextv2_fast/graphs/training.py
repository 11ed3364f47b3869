"""A training step of two graphs: of a micro-batch, replayed for each part of a step, and of the update
(:mod:`.updates`)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Hashable, Iterable, Sequence, Sized
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UnsupportedInputError
from . import averages, capture, wrappers
from .calls import Call, settings, versions, why_not_here
from .gradients import Gradients
from .shelf import Shelf, remember
from .step_watch import StepWatch
from .updates import Update

WARM_UP = 3
WARM_UP_REPLICATED = 11  # DistributedDataParallel takes times in its first ten steps, and orders its buckets anew

_WRITES = "the loss writes into its inputs"

logger = logging.getLogger("convnextv2_fast")
Loss = Callable[..., Tensor]


class StepResult(NamedTuple):
    """Of a step, on the device: nothing is read back."""

    loss: Tensor  # the mean over the parts
    grad_norm: Tensor | None  # before clipping, where gradients are clipped


class TrainingStep:
    """An optimizer step: forward, backward and update, as CUDA graphs where that is possible, else eagerly.

    A step consists of `accumulate` parts. The graph of a part computes the loss and adds to the gradients, the first
    one after it has set them to zero; the graph of the update unscales, clips, steps, updates the loss scale and the
    moving average. The first steps run eagerly and count; graphs are made behind them. A part of another shape runs
    eagerly, and gets a graph of its own when it comes again. Eager and graphed steps compute the same, but for learning
    rates, which a graph holds in float32.

    The gradients of the model and of the optimizer belong to the step: whatever is in them before it does not count,
    and after it there are none. A parameter without use in a step, but in earlier ones, is stepped with a gradient of
    zero, as after `zero_grad(set_to_none=False)`. Learning rates may be changed at any time, by a schedule or by hand;
    weight decay and other numbers too, but an update with new numbers runs eagerly.

    Args:
        model: as it is called: bare, or in DistributedDataParallel (built within :func:`side_stream`).
        loss: `loss(model, *inputs)`, a scalar. It must draw random numbers on the device or be given them as inputs.
            What it holds (:func:`.step_watch.held_by`) is watched as the model is.
        optimizer: one of torch.optim's Adam, AdamW, SGD (in their fused form), NAdam, RAdam or RMSprop for a graph of
            the update; with any other the update runs eagerly.
        scaler: of float16.
        ema: has `update(model)`; timm's ModelEmaV3 on the same device becomes part of the graph.
        accumulate: parts of a step.
        clip_grad: the largest norm of the gradient.
        autocast: dtype of mixed precision.
        most_shapes: graphs of parts that are kept, those used last.
        generators: CUDA generators of one's own, from which the loss draws.
        graphs: False: everything runs eagerly.
        say: hears, once each, why a step or an update runs eagerly; by default the library's log. Nothing is said of a
            model on a CPU.
    Raises:
        UnsupportedInputError: from the constructor or a call: arguments that cannot be.
        CaptureError: from a call: the loss does what no graph can hold.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        *,
        scaler: torch.amp.GradScaler | None = None,
        ema: Any = None,
        accumulate: int = 1,
        clip_grad: float | None = None,
        autocast: torch.dtype | None = None,
        most_shapes: int = 4,
        generators: Sequence[torch.Generator] = (),
        graphs: bool = True,
        say: Callable[[str], None] | None = None,
    ) -> None:
        if accumulate < 1 or most_shapes < 1:
            raise UnsupportedInputError("graphs.TrainingStep: accumulate and most_shapes must be at least 1")
        found = next((p.device for p in model.parameters() if p.requires_grad), None)
        if found is None:
            raise UnsupportedInputError("graphs.TrainingStep: no parameter of the model requires a gradient")
        averages.check(ema)
        self.device: torch.device = found
        self.loss, self.accumulate, self.autocast = loss, accumulate, autocast
        self._say, self._told = say or logger.warning, set[str]()
        warm_up = WARM_UP_REPLICATED if wrappers.is_replicated(model) else WARM_UP
        self._parts = Shelf(self.device, warm_up, most_shapes, generators)
        updates = Shelf(self.device, warm_up, 2, generators)  # with other hyper-parameters it is another one
        scaler = scaler if scaler is not None else torch.amp.GradScaler(self.device.type, enabled=False)
        self.gradients = Gradients(
            lambda: chain(self._watch.parameters, self.update.form.parameters()),
            lambda: self._watch.parameters_of_the_loss,
        )
        self.update = Update(model, optimizer, scaler, ema, clip_grad, updates, self.gradients, self._tell)
        self._watch = self._look()
        self._writes: dict[Hashable, None] = {}  # keys of parts in which the loss wrote into its inputs
        self._changes = 0  # of the model, in a row
        self._off = self._why_never(graphs)

    @property
    def model(self) -> nn.Module:
        return self.update.model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.update.optimizer

    @property
    def scaler(self) -> torch.amp.GradScaler:
        return self.update.scaler

    @property
    def ema(self) -> Any:
        return self.update.ema

    def _look(self) -> StepWatch:
        return StepWatch(self.model, self.loss, self.ema, self.update.form.parameters)

    def _why_never(self, graphs: bool) -> str | None:
        if not graphs:
            return "graphs=False was given"
        if self.device.type != "cuda" and capture.recorder.why_not(self.device):
            return capture.recorder.why_not(self.device)
        reason = wrappers.why_not(self.model)
        if reason:
            self._tell(reason)
        return reason

    def __call__(self, parts: Iterable[Sequence[Any]]) -> StepResult:
        """One step. `parts` holds the inputs of `loss` for each part, each a tuple or list; an iterator is read as they
        are needed. A step that fails leaves nothing to the next one, which begins with gradients of zero."""
        if isinstance(parts, Sized):
            self._check_number(len(parts))
        reason = self._why_not()
        if reason and reason != self._off:
            self._tell(reason)
        loss = self._all_parts(parts, graphed=not reason)
        norm = self.update(average=True) if self._off else self.update.on_device(graphed=not reason)
        self.gradients.detach()
        return StepResult(loss, norm)

    def _all_parts(self, parts: Iterable[Sequence[Any]], graphed: bool) -> Tensor:
        """Adds all parts to the gradients. Returns the mean of their losses."""
        losses: list[Tensor] = []
        for inputs in parts:
            number = len(losses) + 1
            if number > self.accumulate:
                self._check_number(number)
            if not isinstance(inputs, tuple | list):
                raise UnsupportedInputError(
                    "graphs.TrainingStep: a part is a tuple or list of the inputs of loss, as in step([(images, "
                    f"labels)]); got a {type(inputs).__name__}"
                )
            losses.append(self._part(Call.of(inputs), number == 1, number == self.accumulate, graphed))
        self._check_number(len(losses))
        return sum(losses[1:], losses[0]) / self.accumulate

    def _check_number(self, of_parts: int) -> None:
        if of_parts != self.accumulate:
            more = " or more" if of_parts > self.accumulate else ""
            raise UnsupportedInputError(
                f"graphs.TrainingStep: a step takes accumulate={self.accumulate} parts, got {of_parts}{more}"
            )

    def why_not(self, *inputs: Any) -> str | None:
        """Why a part with these inputs, the first of a step, would run eagerly now, in words; None: it is a replay."""
        reason = self._off or self._anew() or self._reason()
        call = Call.of(inputs)
        reason = reason or call.why_not(self.device)
        if reason:
            return reason
        key = self._key(call, True, self.accumulate == 1)
        if key in self._writes:
            return _WRITES
        left = self._parts.left(key)
        return f"parts like this one become a graph after {left} more" if left else None

    def why_not_update(self) -> str | None:
        """Why the update would run eagerly now, in words; None: it is a replay."""
        reason = self._off or self._anew() or self._reason() or self.update.why_not()
        if reason:
            return reason
        left = self.update.left()
        return f"updates with these numbers become a graph after {left} more" if left else None

    def _anew(self) -> str | None:
        changed = self._watch.changed(self.loss)
        return f"{changed}; graphs are made anew" if changed else None

    def _why_not(self) -> str | None:
        """Forgets graphs of what is no longer so."""
        if self._off:
            return self._off
        changed = self._watch.changed(self.loss)
        self._changes = self._changes + 1 if changed else 0
        if changed:
            self._watch = self._look()
            self._parts.clear()
            self._writes.clear()
            self.gradients.forget()  # of what is no longer trained or used, an eager step has none at all
            if self._changes > WARM_UP:
                self._tell(f"{changed} before every step")
        if changed or self.update.moved():
            self.update.clear()
        return self._reason()

    def _reason(self) -> str | None:
        if not torch.is_grad_enabled():
            return "the step is called under torch.no_grad() or inference_mode()"
        if torch.is_autocast_enabled(self.device.type):
            return "the step is called under torch.autocast; give it autocast= instead"
        reason = why_not_here(self.device.type) or capture.recorder.why_not(self.device) or wrappers.why_not(self.model)
        return reason or self._watch.why_not()

    def _tell(self, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            self._say(f"without CUDA graphs: {reason}")

    def _key(self, call: Call, first: bool, last: bool) -> Hashable:
        last = last or not wrappers.is_replicated(self.model)
        mine = self.accumulate, self.autocast, self.gradients.generation
        return call.key(), first, last, mine, settings(self.device)

    def _part(self, call: Call, first: bool, last: bool, graphed: bool) -> Tensor:
        reason = call.why_not(self.device) if graphed else None
        if not self._off:
            self.gradients.attach(first)
        elif first:
            self.gradients.detach()
        key = self._key(call, first, last) if graphed and not reason else None
        if key in self._writes:
            reason = _WRITES
        if reason:
            self._tell(reason)
        if reason or not graphed:
            loss = self.forward_backward(call, first, last)
            self._keep()
            return loss
        before = versions(call)
        loss, static = self._parts.run(key, call, lambda given: self.forward_backward(given, first, last))
        if static:
            return loss.clone()
        if versions(call) != before:
            remember(self._writes, key, None)
        self._keep()
        return loss

    def _keep(self) -> None:
        """Of gradients that are new, graphs know nothing; of some that are others, they know the wrong."""
        if not self._off and self.gradients.keep():
            self._tell("gradients were replaced while a part ran")
            self._parts.clear()
            self.update.clear()

    def forward_backward(self, call: Call, first: bool, last: bool) -> Tensor:
        """What the graph of a part holds; of the first one, also that gradients begin at zero. Returns the loss."""
        args, kwargs = call.arguments()
        kind = self.device.type
        amp = torch.autocast(kind, dtype=self.autocast) if self.autocast else contextlib.nullcontext()
        if first:
            self.gradients.zero()
        with wrappers.synchronised(self.model, last):
            with amp:
                loss = self.loss(self.model, *args, **kwargs)
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                got = f"one of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
                raise UnsupportedInputError(f"graphs.TrainingStep: loss must return a tensor of one number, got {got}")
            self.scaler.scale(loss / self.accumulate).backward()
        return loss.detach()
