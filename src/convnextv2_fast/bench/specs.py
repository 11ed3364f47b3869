"""Which backend runs each op of a whole model."""

from __future__ import annotations

import functools

import torch

from .. import dispatch
from ..models.convnextv2 import SIZES
from .peers import Unavailable


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


def ops(backend: str, model: str, device: torch.device, dtype: torch.dtype, gradients: bool) -> dict[str, list[str]]:
    """For each op, the backends that run it in this model; a block that is two ops is not among them.

    Raises:
        Unavailable: this backend runs nothing here, so a row named after it would be another backend's.
        UnsupportedInputError: an op has this backend, but cannot run there what the model asks of it.
    """
    found: dict[str, set[str]] = {}
    with dispatch.use_backend(backend):
        for spec in specs_of(model, device, dtype, gradients):
            chosen = dispatch.choose(spec).backend
            if chosen != "composed":
                found.setdefault(spec.op, set()).add(chosen)
    if backend != "auto" and not any(backend in names for names in found.values()):
        raise Unavailable(f"backend {backend!r}: no op of this model has such an implementation yet")
    return {op: sorted(names) for op, names in found.items()}
