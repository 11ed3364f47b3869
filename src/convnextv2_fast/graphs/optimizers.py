"""Optimizers in the form that a graph can hold: step counts and learning rates on the device."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, optim

# What has to be set in an optimizer's groups. The fused form takes the loss scale and the found infinities, too.
_FUSED = {"fused": True, "foreach": False}
_FOREACH = {"capturable": True, "foreach": True}  # one by one, RMSprop reads the learning rate back
_FORMS: dict[type[optim.Optimizer], dict[str, Any]] = {
    optim.Adam: {"capturable": True, **_FUSED},
    optim.AdamW: {"capturable": True, **_FUSED},
    optim.SGD: _FUSED,
    optim.NAdam: _FOREACH,
    optim.RAdam: _FOREACH,
    optim.RMSprop: _FOREACH,
}
NAMES = ", ".join(kind.__name__ for kind in _FORMS)
_SCALES = "_step_supports_amp_scaling"  # by which GradScaler leaves the judgement to the optimizer, on the device
_WARNED = "_warned_capturable_if_run_uncaptured"  # that a capturable step ran eagerly, as it does here at first


class OnDevice:
    """An optimizer that is to step on the device alone.

    Its groups get the form of :data:`_FORMS` while it is :meth:`entered`, and only then: outside they are what their
    owner made them, a learning rate a float that schedules set, and so is what `state_dict` gives. Checkpoints of
    graphs and of eager steps are therefore the same.
    """

    def __init__(self, optimizer: optim.Optimizer, device: torch.device) -> None:
        self.optimizer, self.device = optimizer, device
        self._rates: list[Tensor] = []
        self._filled: list[float] = []

    def why_not(self, scaled: bool) -> str | None:
        """Why no graph can hold its steps; None: one can.

        Args:
            scaled: a GradScaler is at work.
        """
        of = self.optimizer
        name = type(of).__name__
        if type(of) not in _FORMS:
            return f"{name} has no form that is known to stay on the device; those of torch.optim have: {NAMES}"
        if scaled and "fused" not in _FORMS[type(of)]:
            return f"{name} reads back whether float16 overflowed; Adam, AdamW and SGD leave it on the device"
        own = vars(of).get("step")
        if own is not None and not hasattr(own, "_wrapped_by_lr_sched"):
            return f"{name} has a step of its own, which a replay would not call"
        if of._optimizer_step_pre_hooks or of._optimizer_step_post_hooks or _global_hooks():
            return f"a hook is registered on {name}, which a replay would not call"
        for group in of.param_groups:
            if group.get("differentiable"):
                return f"{name} is differentiable"
            if type(of) is optim.SGD and group["momentum"] and group["dampening"]:
                return f"{name} does not dampen its first step, which a graph cannot tell from others"
            for p in group["params"]:
                if p.device != self.device or not p.is_floating_point():
                    return f"{name} has a parameter of {p.dtype} on {p.device}"
                if p.grad is not None and p.grad.layout is not torch.strided:
                    return f"{name} has a sparse gradient"
        return None

    def fill(self) -> None:
        """Writes the learning rates into their tensors."""
        groups = self.optimizer.param_groups
        while len(self._rates) < len(groups):
            self._rates.append(torch.zeros((), device=self.device))
            self._filled.append(0.0)
        for i, group in enumerate(groups):
            rate = group["lr"]
            if not isinstance(rate, Tensor) and rate != self._filled[i]:
                self._rates[i].fill_(rate)
                self._filled[i] = rate

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """In which a step stays on the device."""
        of: Any = self.optimizer
        form = _FORMS[type(of)]
        kept = [{name: group[name] for name in (*form, "lr")} for group in of.param_groups]
        flags = {name: vars(of).get(name) for name in (_SCALES, _WARNED)}
        self._prepare()
        for group, rate in zip(of.param_groups, self._rates, strict=False):
            group.update(form)
            if not isinstance(group["lr"], Tensor):
                group["lr"] = rate
        setattr(of, _WARNED, True)
        if "fused" in form:
            setattr(of, _SCALES, True)
        try:
            yield
        finally:
            for group, values in zip(of.param_groups, kept, strict=True):
                group.update(values)
            for name, value in flags.items():
                if value is None:
                    vars(of).pop(name, None)
                else:
                    setattr(of, name, value)

    def _prepare(self) -> None:
        """Brings the state into the form. Step counts of earlier eager steps, and of checkpoints, lie on the CPU; what
        is as large as a parameter may have other strides, which the fused form does not look at. SGD's fused form would
        begin with memory that a step whose gradient overflows leaves as it is; zeros give the same first step."""
        for p, state in self.optimizer.state.items():
            for name, value in state.items():
                if not isinstance(value, Tensor):
                    continue
                if name in ("step", "mu_product") and value.device != self.device:
                    state[name] = value.to(self.device, torch.float32)
                elif value.shape == p.shape and value.stride() != p.stride():
                    state[name] = torch.empty_like(p, dtype=value.dtype).copy_(value)
        if type(self.optimizer) is not optim.SGD:
            return
        for group in self.optimizer.param_groups:
            for p in group["params"] if group["momentum"] else ():
                if p.grad is not None and self.optimizer.state[p].get("momentum_buffer") is None:
                    self.optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)

    def tensors(self) -> list[Tensor]:
        """Everything that a step reads and writes, but for gradients."""
        of = self.optimizer
        found = self.parameters()
        found += [v for state in of.state.values() for v in state.values() if isinstance(v, Tensor)]
        mine = set(map(id, self._rates))
        rates = (group["lr"] for group in of.param_groups)
        return found + self._rates + [rate for rate in rates if isinstance(rate, Tensor) and id(rate) not in mine]

    def numbers(self) -> Hashable:
        """What a graph of a step holds as numbers: weight decay and whatever else is no tensor, but for learning rates
        and what :meth:`entered` sets."""
        left_out = {"params", "lr", *_FORMS.get(type(self.optimizer), ())}
        return tuple(
            tuple((name, _hashable(value)) for name, value in group.items() if name not in left_out)
            for group in self.optimizer.param_groups
        )

    def parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def _hashable(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return "tensor", value.data_ptr()
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def _global_hooks() -> bool:
    from torch.optim import optimizer

    return bool(optimizer._global_optimizer_pre_hooks or optimizer._global_optimizer_post_hooks)
