"""The rows of `bench`: this library per backend, torch.compile, timm."""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checkpoints, dispatch
from ..models.convnextv2 import SIZES
from ._arguments import DTYPES, CommandError
from ._judge import first_line
from ._measure import Row
from ._models import build, images

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


def _timm(timm: Any, name: str, model: nn.Module) -> nn.Module:
    """timm's model of this size with the same weights."""
    peer = timm.create_model(f"convnextv2_{name}", pretrained=False, num_classes=CLASSES)
    peer.load_state_dict(checkpoints.convert_state_dict(model.state_dict(), source="upstream", target="timm"))
    return peer


def rows(args: argparse.Namespace, device: torch.device) -> tuple[list[Row], Row]:
    """The rows asked for, and the one they are all compared with: the torch backend, which need not be among them.

    Raises:
        CommandError, UnsupportedInputError: a backend that runs nothing here, an image size that the model refuses.
    """
    dtype, train = DTYPES[args.dtype], args.mode == "train"
    if args.timm and args.model.startswith("fcmae-"):
        raise CommandError("--timm: timm has no FCMAE")
    specs = _specs(args.model, device, dtype, train)
    names = list(dict.fromkeys(args.backend or ("auto", "torch")))
    used = {name: _ops(name, specs) for name in names}
    original = build(args.model)
    model = copy.deepcopy(original).to(device, dtype).train(train)
    x = images(args.batch, args.size).to(device, dtype)

    def row(label: str, backend: str | None, module: Any, parameters: nn.Module, ops: dict[str, list[str]]) -> Row:
        step = _step(parameters, _task(module, args.model, x), train)
        context = contextlib.nullcontext if backend is None else functools.partial(dispatch.use_backend, backend)
        return Row(label, step, context, ops)

    found = [row(f"fast ({name})", name, model, model, used[name]) for name in names]
    if args.compile:
        compiled = torch.compile(model)
        found.append(row("torch.compile (torch backend)", "torch", compiled, model, _ops("torch", specs)))
    if args.timm:
        try:
            timm = importlib.import_module("timm")
        except Exception as error:  # a broken installation of timm or torchvision is not for us to repair
            why = f"{type(error).__name__}: {first_line(error)}"
            found.append(Row("timm (eager)", lambda: x, error=why, absent=True))
        else:
            peer = _timm(timm, args.model, original).to(device, dtype).train(train)
            found.append(row("timm (eager)", None, peer, peer, {}))
    return found, row("fast (torch)", "torch", model, model, {})
