"""The rows of `bench`: this library per backend and frozen, torch.compile, peers."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import dispatch
from ..adapters import accelerate
from ..frozen import freeze
from . import peers, runtimes, specs
from .models import build, images
from .peers import Unavailable
from .rows import Row
from .settings import one_line

CLASSES = 1000
# One forward: the outputs to compare, and a function that gives the loss.
Forward = Callable[[], tuple[Tensor, Callable[[], Tensor]]]


@dataclass(frozen=True)
class Request:
    """What is to be measured: `model` of :data:`.models.NAMES` on `batch` images of `size` x `size`; `train`: forward
    and backward, without an optimizer. `backends` may be empty: then "auto" and "torch". `peers` of
    :data:`.peers.NAMES`; `compile` adds rows under torch.compile, `freeze` one of the frozen model."""

    model: str
    batch: int
    size: int
    dtype: torch.dtype
    device: torch.device
    train: bool = False
    backends: Sequence[str] = ()
    peers: Sequence[str] = ()
    compile: bool = False
    freeze: bool = False

    def plain(self) -> dict[str, Any]:
        """The request as JSON values, for :meth:`of`."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**fields, "dtype": str(self.dtype).removeprefix("torch."), "device": str(self.device)}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Request:
        """The request that :meth:`plain` gave."""
        return cls(**{**plain, "dtype": getattr(torch, plain["dtype"]), "device": torch.device(plain["device"])})


def _ops_of(request: Request, backend: str) -> dict[str, list[str]]:
    return specs.ops(backend, request.model, request.device, request.dtype, request.train)


def _step(owner: Any, run: Forward, train: bool) -> Callable[[], Tensor]:
    """One forward, or one forward and backward (no optimizer), whose gradients land in the parameters of `owner`."""

    def infer() -> Tensor:
        with torch.inference_mode():
            return run()[0]

    def forward_backward() -> Tensor:
        output, loss = run()
        loss().backward()
        owner.zero_grad(set_to_none=True)
        return output.detach()

    return forward_backward if train else infer


def _task(module: Callable[[Tensor], Any], name: str, x: Tensor) -> Forward:
    """Classification with cross entropy, or FCMAE's pre-training."""
    labels = torch.arange(x.shape[0], device=x.device) % CLASSES

    def pretrain() -> tuple[Tensor, Callable[[], Tensor]]:
        loss, prediction, _ = module(x)  # draws a mask: always the same number of patches
        return prediction, lambda: loss

    def classify() -> tuple[Tensor, Callable[[], Tensor]]:
        logits = module(x)
        return logits, lambda: F.cross_entropy(logits.float(), labels)

    return pretrain if name.startswith("fcmae-") else classify


def _check(request: Request) -> None:
    """Raises Unavailable for what cannot be done, whatever is installed."""
    for peer in request.peers:
        if request.model.startswith("fcmae-"):
            raise Unavailable(f"--peer {peer}: {peer} has no FCMAE")
        if peer in peers.RUNTIMES and (request.train or request.device.type != "cpu"):
            raise Unavailable(f"--peer {peer}: it is measured in inference on a CPU; use --mode infer --device cpu")
        if request.dtype not in peers.PRECISIONS.get(peer, (request.dtype,)):
            asked, *able = (str(d).removeprefix("torch.") for d in (request.dtype, *peers.PRECISIONS[peer]))
            raise Unavailable(
                f"--peer {peer}: it computes in {' or '.join(able)} on a CPU, not in {asked}; use --dtype"
            )
    can_freeze = request.device.type in ("cpu", "cuda") and not request.model.startswith("fcmae-")
    if request.freeze and (request.train or not can_freeze):
        raise Unavailable("--freeze: classifiers are frozen, for inference on a CPU or a CUDA GPU; use --mode infer")


class _Subject:
    """The model of a request and its images, made when a row needs them."""

    def __init__(self, request: Request, shared: Path | None) -> None:
        self.request, self.shared = request, shared

    @functools.cached_property
    def original(self) -> nn.Module:
        """On the CPU, in float32."""
        return build(self.request.model)

    @functools.cached_property
    def x(self) -> Tensor:
        return images(self.request.batch, self.request.size).to(self.request.device, self.request.dtype)

    def to(self, module: nn.Module) -> nn.Module:
        """Where and how the request wants it."""
        return module.to(self.request.device, self.request.dtype).train(self.request.train)

    @functools.cached_property
    def model(self) -> nn.Module:
        return self.to(copy.deepcopy(self.original))

    def row(self, label: str, module: Any, *, backend: str | None = None, owner: nn.Module | None = None) -> Row:
        """`owner` has the parameters, where `module` is only a function of them."""
        step = _step(owner or module, _task(module, self.request.model, self.x), self.request.train)
        context = contextlib.nullcontext if backend is None else functools.partial(dispatch.use_backend, backend)
        return Row(label, step, context)

    def compiled(self, module: nn.Module) -> Callable[..., Any]:
        """`module` under torch.compile. In inference on a CPU its weights become constants, as freezing does."""
        frozen = not self.request.train and self.request.device.type == "cpu"
        return torch.compile(module, options={"freezing": True}) if frozen else torch.compile(module)

    def own(self, label: str, backend: str) -> Row:
        return self.row(label, self.model, backend=backend)

    def own_frozen(self, label: str) -> Row:
        return self.row(label, freeze(self.to(copy.deepcopy(self.original))))

    def own_compiled(self, label: str) -> Row:
        return self.row(label, self.compiled(self.model), backend="torch", owner=self.model)

    def peer(self, label: str, peer: str, form: str) -> Row:
        """Returns the row of a peer's model with our weights, as `form` says: eager, compiled or accelerated."""
        make = {"timm": peers.timm_model, "transformers": peers.transformers_model}[peer]
        model = self.to(make(self.request.model, self.original.state_dict()))
        if form == "accelerated":
            accelerate(model)
        return self.row(label, self.compiled(model) if form == "torch.compile" else model, owner=model)

    def runtime(self, label: str, peer: str) -> Row:
        """The float32 model in a runtime of its own."""
        example = images(self.request.batch, self.request.size)
        if peer == "onnxruntime":
            return self.row(label, runtimes.onnx_model(lambda: self.original.eval(), example, self.shared))
        run = runtimes.openvino_model(lambda: self.original.eval(), example, self.request.dtype, self.shared)
        return self.row(label, lambda x: run(x.float()))


@dataclass(frozen=True)
class Entry:
    """A row that can be built. `ops`: for each op of the model, the backends that run it."""

    label: str
    build: Callable[[_Subject], Row]
    ops: dict[str, list[str]]


def entries(request: Request) -> list[Entry]:
    """The rows asked for. Nothing is built yet, and no peer is imported.

    Raises:
        Unavailable, UnsupportedInputError: a backend that runs nothing here, a peer that cannot do this.
    """
    _check(request)
    found = []

    def add(label: str, method: Callable[..., Row], *rest: str, ops: dict[str, list[str]] | None = None) -> None:
        found.append(Entry(label, lambda subject: method(subject, label, *rest), ops or {}))

    for name in dict.fromkeys(request.backends or ("auto", "torch")):
        add(f"fast ({name})", _Subject.own, name, ops=_ops_of(request, name))
    if request.freeze:
        add("fast (frozen)", _Subject.own_frozen)
    if request.compile:
        add("torch.compile (torch backend)", _Subject.own_compiled, ops=_ops_of(request, "torch"))
    for peer in dict.fromkeys(request.peers):
        if peer in peers.RUNTIMES:
            add(peers.RUNTIMES[peer], _Subject.runtime, peer)
            continue
        for form in ("eager", *(["torch.compile"] if request.compile else []), "accelerated"):
            add(f"{peer} ({form})", _Subject.peer, peer, form)
    return found


def _built(entry: Entry, subject: _Subject) -> Row:
    """The row; with an error if it cannot be built."""
    try:
        row = entry.build(subject)
    except Unavailable as reason:
        row = Row(entry.label, error=str(reason), absent=True)
    except Exception as error:  # of an exporter: a line of the report, not its end
        row = Row(entry.label, error=one_line(error, 1))
    row.ops = entry.ops
    return row


def _reference(subject: _Subject) -> Row:
    return subject.own("fast (torch)", "torch")


def reference(request: Request) -> Row:
    """What all rows are compared with: the torch backend, which need not be among them."""
    return _reference(_Subject(request, None))


def one(request: Request, label: str, shared: Path) -> Row:
    """One row. `shared`: a folder where exported models are kept for the next process."""
    (entry,) = (entry for entry in entries(request) if entry.label == label)
    return _built(entry, _Subject(request, shared))


def rows(request: Request) -> tuple[list[Row], Row]:
    """The rows asked for, built in this process, and the reference.

    Raises:
        Unavailable, UnsupportedInputError: as :func:`entries`; an image size that the model refuses.
    """
    subject = _Subject(request, None)
    return [_built(entry, subject) for entry in entries(request)], _reference(subject)
