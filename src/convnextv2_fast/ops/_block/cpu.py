"""The whole block as one operator, for inference on the CPU: csrc/cpu/block. It saves the checks of two operators and
keeps the activations between the halves in the cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import library
from ...spec import Implementation, Spec
from .._dwconv_layer_norm.cpu import CPU as DWCONV_LAYER_NORM
from .._mlp_grn.cpu import CPU as MLP_GRN
from .._shared import cpu, packed
from .._shared.checks import as_matrix
from . import composed
from .call import BlockCall, check_weights

_HALVES = {"dwconv_layer_norm": DWCONV_LAYER_NORM, "mlp_grn": MLP_GRN}
_PARAMETERS = (
    "Tensor kernel, Tensor bias, Tensor ln_weight, Tensor ln_bias, Tensor w1, Tensor b1, Tensor gamma, Tensor beta, "
    "Tensor w2, Tensor b2, Tensor? layer_scale"
)


def _pack_fake(*_: Any) -> Tensor:
    raise NotImplementedError("block_cpu_pack: its size depends on the instruction set; it is not for tracing")


def _forward_fake(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((0,), dtype=torch.float32)


# csrc/torch/block_cpu.cpp. Contiguous x [N, H, W, C] and gamma; kernel [C, 1, 7, 7], w1 [K, C], w2 [C, K] and vectors
# of any shape, all of any strides; layer_scale is folded into w2 and b2 as they are packed; bfloat16: packs for x in
# bfloat16. `repacked`: a copy to take the place of `packed`, if that is no longer that of the parameters, else empty.
# No autograd.
_pack = library.define(f"block_cpu_pack({_PARAMETERS}, bool bfloat16=False) -> Tensor", _pack_fake)
_forward = library.define(
    f"block_cpu_fwd(Tensor x, Tensor packed, {_PARAMETERS}, float ln_eps, float grn_eps) "
    "-> (Tensor y, Tensor repacked)",
    _forward_fake,
)


def run(call: BlockCall) -> Tensor:
    w, x, pairs = call.weights, call.x.contiguous(), packed.in_pairs(call.x.dtype)
    gamma, beta = w.gamma, w.beta
    if gamma is None or beta is None:  # GRN at zero is the identity
        gamma = beta = torch.zeros_like(w.b1, requires_grad=False)
    parameters: Any = (*w[:4], as_matrix(w.w1), w.b1, gamma.contiguous(), beta, as_matrix(w.w2), w.b2, w.layer_scale)

    def forward(copy: Tensor | None) -> tuple[Tensor, Tensor]:
        if copy is None:  # a weight that no copy can be held for, as under torch.vmap
            return composed.run(call), x.new_empty(0)
        y, repacked = _forward(x, copy, *parameters, call.ln_eps, call.grn_eps)
        return y, repacked

    try:
        return packed.run(forward, lambda: _pack(*parameters, pairs), w.w1, "block", pairs)[0]
    except ValueError:
        check_weights(*parameters)  # says more; looked at only now, for speed
        raise


_WORDS = {
    "autograd": "it is for inference, under torch.no_grad() or torch.inference_mode()",
    "autocast": "it does not run under autocast",
    "torch.compile": "torch.compile traces the two ops",
}


def reasons(spec: Spec) -> list[str]:
    """Why one operator cannot stand for the two ops, a sentence each."""
    found = cpu.reasons(spec)
    if spec.layout != "dense":
        found.append(f"it takes dense planes, not the {spec.layout} layout")
    if not packed.enabled:
        found.append(f"it runs on packed weights, which {packed.ENVIRONMENT}=0 forbids")
    found += composed.why_not_together("cpu", _HALVES)
    if spec.extras:
        found += [_WORDS.get(extra, f"it does not take {extra}") for extra in spec.extras]
    return found


CPU = Implementation("cpu", run, reasons)
