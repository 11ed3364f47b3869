"""Tries out what classes of other people's files compute: blocks, LayerNorm and GRN written like upstream's.

Each trial runs the class's own forward on a few random numbers in float64, with modules of a few channels, and compares
values, gradients and the state of the random generator afterwards with what this library would compute. It also runs
it on tensors without values, which shows a forward that would decide by them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

CHANNELS = 5
CHILDREN = ("dwconv", "norm", "pwconv1", "act", "grn", "pwconv2", "drop_path")
Forward = Callable[[Tensor], Tensor]


@contextmanager
def apart() -> Iterator[torch.Generator]:
    """In here nothing of the caller's modes counts, and nothing that happens changes its random numbers."""
    with (
        _disable_current_modes(),  # fake tensors, for example
        torch.random.fork_rng(devices=[]),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.device("cpu"),
    ):
        yield torch.Generator().manual_seed(0)


def shell(cls: type[nn.Module], own: dict[str, Any]) -> nn.Module:
    """A module of the class that has these attributes and was never initialised."""
    made = cls.__new__(cls)
    nn.Module.__init__(made)
    vars(made).update(own)
    return made


def why_not_norm(cls: type[nn.Module], own: dict[str, Any]) -> str | None:
    """Why a module of this class with these attributes (`eps`, `data_format`, others that its forward reads) is not
    LayerNorm over channels; None if it is."""
    if not isinstance(own.get("eps"), float):
        return "it has no eps"
    first = own.get("data_format") == "channels_first"
    shape = (2, CHANNELS, 3, 4) if first else (2, 3, 4, CHANNELS)

    def expected(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows = x.permute(0, 2, 3, 1) if first else x
        y = F.layer_norm(rows, (CHANNELS,), weight, bias, own["eps"])
        return y.permute(0, 3, 1, 2) if first else y

    if "normalized_shape" in own:
        own = own | {"normalized_shape": (CHANNELS,)}
    return _why_not_rows(cls, own, ("weight", "bias"), (CHANNELS,), shape, expected)


def why_not_grn(cls: type[nn.Module], own: dict[str, Any]) -> str | None:
    """Why a module of this class with these attributes is not GRN of each sample of `[N, H, W, C]`; None if it is."""
    eps = own.get("eps")
    eps = 1e-6 if eps is None else eps
    if not isinstance(eps, float):
        return "its eps is no number"

    def expected(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        norm = x.square().sum((1, 2), keepdim=True).sqrt()
        return gamma * (x * (norm / (norm.mean(-1, keepdim=True) + eps))) + beta + x

    return _why_not_rows(cls, own, ("gamma", "beta"), (1, 1, 1, CHANNELS), (2, 3, 4, CHANNELS), expected)


def _why_not_rows(
    cls: type[nn.Module],
    own: dict[str, Any],
    names: tuple[str, str],
    parameters: tuple[int, ...],
    shape: tuple[int, ...],
    expected: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> str | None:
    with apart() as generator:
        for scale in (1.0, 1e-3, 1e-6):  # the smaller, the more eps counts
            x, a, b = (
                torch.randn(s, generator=generator, dtype=torch.float64) for s in (shape, parameters, parameters)
            )
            x = x * scale
            inputs = [t.requires_grad_() for t in (x, a, b)]
            module = shell(cls, own | dict(zip(names, inputs[1:], strict=True)))
            run = functools.partial(cls.forward, module)
            why = _compare(run, lambda u, w=inputs: expected(u, *w[1:]), inputs)  # type: ignore[misc]
            if why is not None:
                return why
        return _decides_by_values(run, x, module)


def why_not_block(cls: type[nn.Module], own: dict[str, Any], grn_is: str, gamma_is: str) -> str | None:
    """Why the forward of this class does not call the modules of a block as upstream's does; None if it does.

    `grn_is` and `gamma_is` are "there", "none" (the attribute is None) or "absent". Functions stand in for the modules:
    what those compute is asked of each of them by itself."""
    with apart() as generator:
        grn, layer_scale = grn_is == "there", gamma_is == "there"
        drawn = {
            name: torch.randn(CHANNELS, CHANNELS, generator=generator, dtype=torch.float64)
            for name in ("dwconv", "norm", "pwconv1", "grn", "pwconv2")
        }
        gamma = torch.randn(CHANNELS, generator=generator, dtype=torch.float64).requires_grad_()
        called: list[str] = []

        def stand_in(name: str) -> Forward:
            def run(u: Tensor) -> Tensor:
                called.append(name)
                if name == "dwconv":
                    return torch.einsum("nchw,cd->ndhw", u, drawn[name].to(u.device))
                if name == "act":
                    return u.sin()
                if name == "drop_path":  # of [N, C, H, W]
                    return u * torch.rand(u.shape[0], 1, 1, 1, dtype=u.dtype, device=u.device)
                return (u @ drawn[name].to(u.device)).cos()

            return run

        children = {name: stand_in(name) for name in CHILDREN if name != "grn" or grn}
        nothing = {name: None for name, kind in (("grn", grn_is), ("gamma", gamma_is)) if kind == "none"}
        module = shell(cls, own | children | nothing | ({"gamma": gamma} if layer_scale else {}))

        def expected(x: Tensor) -> Tensor:
            u = children["act"](children["pwconv1"](children["norm"](children["dwconv"](x).permute(0, 2, 3, 1))))
            y = children["pwconv2"](children["grn"](u) if grn else u)
            return x + children["drop_path"]((gamma * y if layer_scale else y).permute(0, 3, 1, 2))

        x = torch.randn(3, CHANNELS, 2, 4, generator=generator, dtype=torch.float64).requires_grad_()
        inputs = [x, gamma] if layer_scale else [x]
        run: Forward = functools.partial(cls.forward, module)
        why = _compare(run, expected, inputs)
        if why is not None:
            return why
        if sorted(called) != sorted([*children, *children]):
            return "its forward does not call each of its modules once"
        return _decides_by_values(run, x, module)


def _compare(found: Forward, expected: Forward, inputs: list[Tensor]) -> str | None:
    """Values, gradients, the random state afterwards, and that the input is left as it was; at once in float64."""
    before = inputs[0].detach().clone()
    results = []
    for run in (found, expected):
        torch.default_generator.manual_seed(1)  # torch.manual_seed would seed GPUs too
        y = run(inputs[0])
        drawn = torch.random.get_rng_state()
        if not isinstance(y, Tensor) or y.shape != inputs[0].shape or y.dtype != inputs[0].dtype:
            return "it returns something else"
        grads = torch.autograd.grad((y * torch.arange(y.numel()).view(y.shape).sin()).sum(), inputs, allow_unused=True)
        results.append((y, drawn, grads))
    (y, drawn, grads), (want, want_drawn, want_grads) = results
    if not torch.equal(inputs[0], before):
        return "it writes into its input"
    if not torch.equal(drawn, want_drawn):
        return "it draws other random numbers"
    for got, wanted in ((y, want), *zip(grads, want_grads, strict=True)):
        scale = wanted.abs().max().item()
        error = float("inf") if got is None else (got - wanted).abs().max().item()
        if not error <= 1e-9 * scale + 1e-300:
            return f"it computes something else (by {error:.1e} of {scale:.1e})"
    return None


def _decides_by_values(run: Forward, x: Tensor, module: nn.Module) -> str | None:
    for name, value in list(vars(module).items()):
        if isinstance(value, Tensor):
            vars(module)[name] = value.detach().to("meta")
    try:
        run(x.detach().to("meta"))
    except (NotImplementedError, RuntimeError):
        return "it decides by the values of its input"
    return None
