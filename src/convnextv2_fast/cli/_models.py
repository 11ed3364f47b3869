"""Whole models for `check` and `bench`: seeded weights with nothing at zero, and the checks against the references."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import dispatch, reference
from ..models import convnextv2, fcmae
from ..models.convnextv2 import SIZES
from ..testing import gradient_error, randomise, tolerance
from ._judge import Line, Results, first_line, judge, threads

NAMES = (*SIZES, *(f"fcmae-{size}" for size in SIZES))
_DTYPES = (torch.float32, torch.bfloat16)
_SEED = 0


def build(name: str, **options: Any) -> nn.Module:
    """The model `name` (of :data:`NAMES`) on the CPU in float32; the caller's random state is left alone.

    FCMAE takes its small initialisation: upstream's is so large that float16 would overflow."""
    size = name.removeprefix("fcmae-")
    if size != name:
        options.setdefault("init", "std02")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = getattr(convnextv2 if size == name else fcmae, f"convnextv2_{size}")(**options)
    return randomise(model, _SEED)


def images(batch: int, size: int) -> Tensor:
    """Normal noise `[batch, 3, size, size]`, the same at every call."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(_SEED))


@dataclass
class _Subject:
    """A model to check: two images of 64x64 pixels, and for FCMAE a mask."""

    title: str
    model: nn.Module
    mask: Tensor | None = None

    def by_model(self, at: torch.device, dtype: torch.dtype) -> tuple[Results, Results]:
        """Outputs and parameter gradients of the module."""
        model = copy.deepcopy(self.model).to(at, dtype)
        x = images(2, 64).to(at, dtype)
        if self.mask is None:
            out = {"logits": model(x)}
        else:
            loss, pred, _ = model(x, mask=self.mask.to(at))
            out = {"loss": loss, "prediction": pred}
        _objective(out).backward()
        gradients: dict[str, Any] = {name: p.grad for name, p in model.named_parameters()}
        return _detached(out), gradients

    def by_reference(self, at: torch.device, dtype: torch.dtype) -> tuple[Results, Results]:
        """Outputs and parameter gradients of the plain PyTorch functions."""
        params = {k: v.detach().to(at, dtype).requires_grad_() for k, v in self.model.state_dict().items()}
        x = images(2, 64).to(at, dtype)
        if self.mask is None:
            out = {"logits": reference.convnextv2(params, x)}
        else:
            loss, pred, _ = reference.fcmae(params, x, self.mask.to(at))
            out = {"loss": loss, "prediction": pred}
        _objective(out).backward()
        return _detached(out), {name: p.grad for name, p in params.items()}


def _objective(out: Results) -> Tensor:
    """FCMAE's loss; for logits a fixed random combination of them."""
    if "loss" in out:
        return out["loss"]
    y = out["logits"]
    return (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)).sum()


def _detached(out: Results) -> Results:
    return {name: y.detach() for name, y in out.items()}


def _subjects() -> Iterator[_Subject]:
    yield _Subject("model atto", build("atto", num_classes=10).eval())
    mask = torch.tensor([[0.0, 1, 0, 1], [1.0, 0, 0, 1]])
    yield _Subject("model fcmae-atto", build("fcmae-atto").eval(), mask)


def check_models(backend: str | None, places: Sequence[torch.device]) -> Iterator[Line]:
    """Outputs and gradients of a dense model and of FCMAE: with `backend`, or with the automatic choice and "torch"."""
    for subject in _subjects():
        with threads(1):
            exact = subject.by_reference(torch.device("cpu"), torch.float64)
        for at in places:
            for dtype in _DTYPES:
                with threads(1):
                    plain = subject.by_reference(at, dtype)
                for name in ("auto", "torch") if backend is None else (backend,):
                    yield _check(subject, name, at, dtype, plain, exact)


def _check(
    subject: _Subject,
    backend: str,
    at: torch.device,
    dtype: torch.dtype,
    plain: tuple[Results, Results],
    exact: tuple[Results, Results],
) -> Line:
    line = Line("ok", subject.title, backend, str(at), "-", str(dtype).removeprefix("torch."))
    try:
        with dispatch.use_backend(backend), threads(1):
            outputs, gradients = subject.by_model(at, dtype)
    except dispatch.UnsupportedInputError as error:
        line.status, line.note = "skipped", first_line(error)
        return line
    except Exception as error:  # whatever a kernel does wrong is a finding, not the end of the report
        return line.fail(f"{type(error).__name__}: {first_line(error)}")
    judge(line, outputs, plain[0], exact[0], dtype)
    line.add(gradient_error(gradients, exact[1]), tolerance(gradient_error(plain[1], exact[1]), dtype), "gradients")
    return line
