"""The rows of `bench`: this library per backend, torch.compile, peers."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import dispatch
from ..adapters import accelerate
from ..models.convnextv2 import SIZES
from . import peers
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
    :data:`.peers.NAMES`; `compile` adds rows under torch.compile."""

    model: str
    batch: int
    size: int
    dtype: torch.dtype
    device: torch.device
    train: bool = False
    backends: Sequence[str] = ()
    peers: Sequence[str] = ()
    compile: bool = False


def specs_of(name: str, device: torch.device, dtype: torch.dtype, gradients: bool) -> list[dispatch.Spec]:
    """What dispatch is asked in one call of the model `name`, with the backend that is in use."""
    sparse = name.startswith("fcmae-")
    dims = SIZES[name.removeprefix("fcmae-")][1]
    spec = functools.partial(dispatch.Spec, device=device.type, dtype=dtype, param_dtype=dtype, needs_grad=gradients)
    layout = "patch" if sparse else "dense"
    found = [spec(op="patch_conv", channels=c, layout=layout) for c in (3, *dims[:3])]
    blocks = [(c, layout) for c in dims] + [(512, "dense")] * sparse  # FCMAE's decoder is a dense block
    for c, kind in blocks:
        extras = ("autograd",) if gradients else ()
        if kind == "patch":
            extras = (*(("drop path",) if gradients else ()), *extras, "rows [T, C]", "a kernel [49, C]")
        block = spec(op="block", channels=c, layout=kind, extras=extras)
        found.append(block)
        if dispatch.choose(block).backend == "composed":
            found.append(spec(op="dwconv_layer_norm", channels=c, layout=kind))
            found.append(spec(op="mlp_grn", channels=c, layout="dense"))
    return found


def _ops(backend: str, request: Request) -> dict[str, list[str]]:
    """For each op, the backends that run it in this model; a block that is two ops is not among them.

    Raises:
        Unavailable: this backend runs nothing here, so a row named after it would be another backend's.
        UnsupportedInputError: an op has this backend, but cannot run there what the model asks of it.
    """
    found: dict[str, set[str]] = {}
    with dispatch.use_backend(backend):
        for spec in specs_of(request.model, request.device, request.dtype, request.train):
            chosen = dispatch.choose(spec).backend
            if chosen != "composed":
                found.setdefault(spec.op, set()).add(chosen)
    if backend != "auto" and not any(backend in names for names in found.values()):
        raise Unavailable(f"backend {backend!r}: no op of this model has such an implementation yet")
    return {op: sorted(names) for op, names in found.items()}


def _step(model: nn.Module, run: Forward, train: bool) -> Callable[[], Tensor]:
    """One forward, or one forward and backward (no optimizer)."""

    def infer() -> Tensor:
        with torch.inference_mode():
            return run()[0]

    def forward_backward() -> Tensor:
        output, loss = run()
        loss().backward()
        model.zero_grad(set_to_none=True)
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


def _check_peers(request: Request) -> None:
    """Raises Unavailable for a peer that cannot do what is asked, whatever is installed."""
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


def _modules(
    request: Request, peer: str, model: nn.Module, to: Callable[[nn.Module], nn.Module]
) -> Iterator[tuple[str, nn.Module, Any]]:
    """A peer's model with the weights of `model`: eager, compiled if asked for, and accelerated by this library."""
    make = {"timm": peers.timm_model, "transformers": peers.transformers_model}[peer]
    eager = to(make(request.model, model.state_dict()))
    yield f"{peer} (eager)", eager, eager
    if request.compile:
        yield f"{peer} (torch.compile)", eager, torch.compile(eager)
    fast = copy.deepcopy(eager)
    accelerate(fast)
    yield f"{peer} (accelerated)", fast, fast


def _runtime(request: Request, peer: str, model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The float32 model in a runtime of its own."""
    example = images(request.batch, request.size)
    if peer == "onnxruntime":
        return peers.onnx_model(model, example)
    run = peers.openvino_model(model, example, request.dtype)
    return lambda x: run(x.float())


def rows(request: Request) -> tuple[list[Row], Row]:
    """The rows asked for, and the one they are all compared with: the torch backend, which need not be among them.

    Raises:
        Unavailable, UnsupportedInputError: a backend that runs nothing here, a peer that cannot do this, an image size
            that the model refuses.
    """
    device, dtype, train = request.device, request.dtype, request.train
    _check_peers(request)
    names = list(dict.fromkeys(request.backends or ("auto", "torch")))
    used = {name: _ops(name, request) for name in names}
    original = build(request.model)
    x = images(request.batch, request.size).to(device, dtype)

    def to(module: nn.Module) -> nn.Module:
        return module.to(device, dtype).train(train)

    def row(label: str, backend: str | None, module: Any, parameters: nn.Module, ops: dict[str, list[str]]) -> Row:
        step = _step(parameters, _task(module, request.model, x), train)
        context = contextlib.nullcontext if backend is None else functools.partial(dispatch.use_backend, backend)
        return Row(label, step, context, ops)

    model = to(copy.deepcopy(original))
    found = [row(f"fast ({name})", name, model, model, used[name]) for name in names]
    if request.compile:
        compiled = torch.compile(model)
        found.append(row("torch.compile (torch backend)", "torch", compiled, model, _ops("torch", request)))
    for peer in dict.fromkeys(request.peers):
        try:
            if peer in peers.RUNTIMES:
                run = _runtime(request, peer, copy.deepcopy(original).eval())
                found.append(row(peers.RUNTIMES[peer], None, run, model, {}))
            else:
                found += [row(name, None, run, owner, {}) for name, owner, run in _modules(request, peer, original, to)]
        except Unavailable as reason:
            found.append(Row(peer, lambda: x, error=str(reason), absent=True))
        except Exception as error:  # of an exporter: a line of the report, not its end
            found.append(Row(peer, lambda: x, error=one_line(error, 1)))
    return found, row("fast (torch)", "torch", model, model, {})
