"""The rows of `bench`: this library per backend, torch.compile, peers."""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import dispatch
from ..adapters import accelerate
from ..models.convnextv2 import SIZES
from . import _peers
from ._judge import first_line
from ._measure import Row
from ._models import build, images
from .arguments import DTYPES, CommandError

CLASSES = 1000
# One forward: the outputs to compare, and a function that gives the loss.
Forward = Callable[[], tuple[Tensor, Callable[[], Tensor]]]


def _specs(name: str, device: torch.device, dtype: torch.dtype, gradients: bool) -> list[dispatch.Spec]:
    """What dispatch sees in one call of the model `name`."""
    sparse = name.startswith("fcmae-")
    dims = SIZES[name.removeprefix("fcmae-")][1]
    spec = functools.partial(dispatch.Spec, device=device.type, dtype=dtype, param_dtype=dtype, needs_grad=gradients)
    layout = "patch" if sparse else "dense"
    found = [spec(op="patch_conv", channels=c, layout=layout) for c in (3, *dims[:3])]
    for c in dims:
        found.append(spec(op="dwconv_layer_norm", channels=c, layout=layout))
        found.append(spec(op="mlp_grn", channels=c, layout="dense"))
    if sparse:  # the decoder is a dense block
        found += [spec(op=op, channels=512, layout="dense") for op in ("dwconv_layer_norm", "mlp_grn")]
    return found


def _ops(backend: str, specs: Sequence[dispatch.Spec]) -> dict[str, list[str]]:
    """For each op, the backends that run it in this model.

    Raises:
        CommandError: this backend runs nothing here, so a row named after it would be another backend's.
        UnsupportedInputError: an op has this backend, but cannot run there what the model asks of it.
    """
    found: dict[str, set[str]] = {}
    with dispatch.use_backend(backend):
        for spec in specs:
            found.setdefault(spec.op, set()).add(dispatch.choose(spec).backend)
    if backend != "auto" and not any(backend in names for names in found.values()):
        raise CommandError(f"backend {backend!r}: no op of this model has such an implementation yet")
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


def _check_peers(args: argparse.Namespace, device: torch.device) -> None:
    """Raises CommandError for a peer that cannot do what is asked, whatever is installed."""
    for peer in args.peer:
        if args.model.startswith("fcmae-"):
            raise CommandError(f"--peer {peer}: {peer} has no FCMAE")
        if peer in _peers.RUNTIMES and (args.mode == "train" or device.type != "cpu"):
            raise CommandError(f"--peer {peer}: it is measured in inference on a CPU; use --mode infer --device cpu")
        if DTYPES[args.dtype] not in _peers.PRECISIONS.get(peer, (DTYPES[args.dtype],)):
            able = " or ".join(str(d).removeprefix("torch.") for d in _peers.PRECISIONS[peer])
            raise CommandError(f"--peer {peer}: it computes in {able} on a CPU, not in {args.dtype}; use --dtype")


def _modules(
    args: argparse.Namespace, peer: str, model: nn.Module, to: Callable[[nn.Module], nn.Module]
) -> Iterator[tuple[str, nn.Module, Any]]:
    """A peer's model with the weights of `model`: eager, compiled if asked for, and accelerated by this library."""
    make = {"timm": _peers.timm_model, "transformers": _peers.transformers_model}[peer]
    eager = to(make(args.model, model.state_dict()))
    yield f"{peer} (eager)", eager, eager
    if args.compile:
        yield f"{peer} (torch.compile)", eager, torch.compile(eager)
    fast = copy.deepcopy(eager)
    accelerate(fast)
    yield f"{peer} (accelerated)", fast, fast


def _runtime(args: argparse.Namespace, peer: str, model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The float32 model in a runtime of its own."""
    example = images(args.batch, args.size)
    if peer == "onnxruntime":
        return _peers.onnx_model(model, example)
    run = _peers.openvino_model(model, example, DTYPES[args.dtype])
    return lambda x: run(x.float())


def rows(args: argparse.Namespace, device: torch.device) -> tuple[list[Row], Row]:
    """The rows asked for, and the one they are all compared with: the torch backend, which need not be among them.

    Raises:
        CommandError, UnsupportedInputError: a backend that runs nothing here, a peer that cannot do this, an image size
            that the model refuses.
    """
    dtype, train = DTYPES[args.dtype], args.mode == "train"
    _check_peers(args, device)
    specs = _specs(args.model, device, dtype, train)
    names = list(dict.fromkeys(args.backend or ("auto", "torch")))
    used = {name: _ops(name, specs) for name in names}
    original = build(args.model)
    x = images(args.batch, args.size).to(device, dtype)

    def to(module: nn.Module) -> nn.Module:
        return module.to(device, dtype).train(train)

    def row(label: str, backend: str | None, module: Any, parameters: nn.Module, ops: dict[str, list[str]]) -> Row:
        step = _step(parameters, _task(module, args.model, x), train)
        context = contextlib.nullcontext if backend is None else functools.partial(dispatch.use_backend, backend)
        return Row(label, step, context, ops)

    model = to(copy.deepcopy(original))
    found = [row(f"fast ({name})", name, model, model, used[name]) for name in names]
    if args.compile:
        compiled = torch.compile(model)
        found.append(row("torch.compile (torch backend)", "torch", compiled, model, _ops("torch", specs)))
    for peer in dict.fromkeys(args.peer):
        try:
            _peers.load(peer)
        except Exception as error:  # a missing or broken installation of theirs is not for us to repair
            found.append(Row(peer, lambda: x, error=f"{type(error).__name__}: {first_line(error)}", absent=True))
            continue
        try:
            if peer in _peers.RUNTIMES:
                run = _runtime(args, peer, copy.deepcopy(original).eval())
                found.append(row(_peers.RUNTIMES[peer], None, run, model, {}))
            else:
                found += [row(name, None, run, owner, {}) for name, owner, run in _modules(args, peer, original, to)]
        except Exception as error:  # of an exporter: a line of the report, not its end
            found.append(Row(peer, lambda: x, error=f"{type(error).__name__}: {first_line(error)}"))
    return found, row("fast (torch)", "torch", model, model, {})
