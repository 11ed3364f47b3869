"""What `check` says of a result: lines, the rule that makes them `ok` or `FAIL`, and the checks of whole models."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import dispatch, reference
from ..testing import gradient_error, relative_error, tolerance
from .models import build, images
from .settings import first_line, one_line, threads

Results = dict[str, Tensor]
MODEL_DTYPES = (torch.float32, torch.bfloat16)


def _cells(*cells: str) -> str:
    return "".join(f"{cell:<{width}}" for cell, width in zip(cells, (8, 18, 8, 7, 7, 17), strict=True))


HEAD = _cells("result", "op or model", "backend", "device", "layout", "dtype")


@dataclass
class Line:
    """One line of the report: of all results it stands for, the one farthest above, or closest below, its tolerance."""

    status: str  # "ok", "FAIL" or "skipped"
    what: str  # an op, or a whole model
    backend: str
    device: str = ""
    layout: str = ""
    dtype: str = ""
    error: float | None = None  # None where there is none, or it is not finite
    tolerance: float | None = None
    note: str = ""  # which result that was; or why it was skipped or could not run

    def __str__(self) -> str:
        head = _cells(self.status, self.what, self.backend, self.device, self.layout, self.dtype)
        if self.status == "skipped":
            return f"{head.rstrip()}: {self.note}"
        if self.error is None:
            return f"{head}{self.note}"
        return f"{head}error {self.error:.1e}, allowed {self.tolerance:.1e} ({self.note})"

    def fail(self, note: str) -> Line:
        """Makes this a failure that has no error to show."""
        self.status, self.error, self.tolerance, self.note = "FAIL", None, None, note
        return self

    def add(self, error: float, allowed: float, note: str) -> None:
        """Takes in one more result."""
        if not math.isfinite(error):
            self.fail(f"{note}: not finite")
        elif self.status == "ok" or self.error is not None:
            if error > allowed:
                self.status = "FAIL"
            if self.error is None or error / allowed > self.error / (self.tolerance or allowed):
                self.error, self.tolerance, self.note = error, allowed, note


FEW = 8  # elements


def judge(
    line: Line,
    got: Mapping[str, Tensor],
    plain: Mapping[str, Tensor],
    exact: Mapping[str, Tensor],
    dtype: torch.dtype,
    measure: Callable[[Tensor, Tensor], float] = relative_error,
) -> None:
    """Adds every result in `got` to the line, by the rule of :func:`convnextv2_fast.testing.tolerance`."""
    for name, value in got.items():
        if value.shape != exact[name].shape:
            line.fail(f"{name}: shape {tuple(value.shape)}, the reference's is {tuple(exact[name].shape)}")
            return
        error = measure(plain[name], exact[name])
        if value.numel() < FEW:  # sums over all rows, whose terms cancel: torch's own error is one draw of luck
            error = max(error, 16 * torch.finfo(dtype).eps)
        line.add(measure(value, exact[name]), tolerance(error, dtype), name)


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
            for dtype in MODEL_DTYPES:
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
        return line.fail(one_line(error, 1))
    judge(line, outputs, plain[0], exact[0], dtype)
    line.add(gradient_error(gradients, exact[1]), tolerance(gradient_error(plain[1], exact[1]), dtype), "gradients")
    return line
