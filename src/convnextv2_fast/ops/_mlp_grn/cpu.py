"""The MLP on the CPU: csrc/cpu/mlp_grn.

Both products in chunks of whole groups whose hidden activations stay in the cache (strategy "chunked"); a group too
large for that is computed in slices, twice ("recompute"). Backward computes the hidden activations again, except where
:func:`saves_hidden` says.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import library
from .._shared import cpu, packed
from .._shared.checks import any_needs_grad
from .._shared.groups import GROUPS
from . import autograd
from .call import WEIGHTS, Kernels, MlpGrnCall, MlpWeights, out_fake

# Bytes of hidden activations up to which a group is computed at once, by strategy.
HELD_BYTES = {None: 48 << 20, "chunked": 48 << 20, "recompute": 0, "materialize": 1 << 62}
SAVE_FROM = 320  # channels from which a float32 forward saves the hidden activations


def _pack_fake(w1: Tensor, *_: Any) -> Tensor:
    raise NotImplementedError("mlp_grn_cpu_pack: its size depends on the instruction set; it is not for tracing")


def _infer_fake(u: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    weights, (residual, _, _, _, _, count, *_) = MlpWeights(*args[:6]), args[6:]
    norm = u.new_empty((count, weights.w1.shape[0]), dtype=torch.float32)
    return out_fake(u, weights.w2, residual), norm


def _forward_fake(u: Tensor, w1: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (u.shape[0] + 1 if args[-1] else 0, (w1.shape[0] + 31) // 32 * 32)
    hidden, repacked = (u.new_empty(size, dtype=torch.float32) for size in (shape, (0,)))
    return *_infer_fake(u, w1, *args), hidden, repacked


def _backward_fake(dy: Tensor, u: Tensor, *args: Any) -> tuple[Tensor, ...]:
    *params, w2 = args[:5]
    gradients = (p.new_empty(p.shape, dtype=torch.float32) for p in (*params, w2))
    return u.new_empty(u.shape), *gradients, u.new_empty((w2.shape[0],), dtype=torch.float32)


_FORWARD = f"(Tensor u, {WEIGHTS}, Tensor? residual, Tensor? row_scale, float eps, int held_bytes, {GROUPS}"
# csrc/torch/mlp_grn_cpu.cpp. Contiguous u [T, C] and parameters; row_scale float32; norm float32 [G, K]; parameters'
# gradients float32. `packed`: of mlp_grn_cpu_pack, bfloat16 where u is, instead of packing anew; `repacked`: a copy to
# take its place, if it is no longer that of the parameters, else empty. `saved_hidden`, if asked for: u w1' + b1,
# float32 [T + 1, K in whole blocks], after a header, in the order of the instruction set.
_pack = library.define(
    "mlp_grn_cpu_pack(Tensor w1, Tensor b1, Tensor beta, Tensor w2, Tensor b2, bool bfloat16=False) -> Tensor",
    _pack_fake,
)
_forward = library.define(
    f"mlp_grn_cpu_fwd{_FORWARD}, Tensor? packed, bool save_hidden) "
    "-> (Tensor y, Tensor norm, Tensor saved_hidden, Tensor repacked)",
    _forward_fake,
)
_backward = library.define(
    "mlp_grn_cpu_bwd(Tensor dy, Tensor u, Tensor w1, Tensor b1, Tensor gamma, Tensor beta, Tensor w2, Tensor norm, "
    f"float eps, int held_bytes, {GROUPS}, Tensor? saved_hidden) "
    "-> (Tensor du, Tensor dw1, Tensor db1, Tensor dgamma, Tensor dbeta, Tensor dw2, Tensor db2)",
    _backward_fake,
)


def infer(u: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    """Runs the forward pass on packed weights, which are held while the weights live."""
    w, pairs = MlpWeights(*args[:6]), packed.in_pairs(u.dtype)
    y, norm, _ = packed.run(
        lambda copy: _forward(u, *args, copy, False),
        lambda: _pack(w.w1, w.b1, w.beta, w.w2, w.b2, pairs),
        w.w1,
        *("mlp_grn", pairs, w.w2.shape[0]),
    )
    return y, norm


# For torch.compile, which cannot trace the look-up of a packed copy.
_infer = library.define(f"mlp_grn_cpu_infer{_FORWARD}) -> (Tensor y, Tensor norm)", _infer_fake, infer)


def _train(*args: Any) -> tuple[Tensor, ...]:
    return _forward(*args, None, False)[:2]


def _train_and_save(*args: Any) -> tuple[Tensor, ...]:
    return _forward(*args, None, True)[:3]


def _backward_again(*args: Any) -> tuple[Tensor, ...]:
    return _backward(*args, None)


RECOMPUTING = Kernels(_train, _backward_again)
SAVING = Kernels(_train_and_save, _backward)


def saves_hidden(u: Tensor, strategy: str | None) -> bool:
    """Whether the forward pass saves the hidden activations for the backward pass.

    Computing one again costs 2C operations, saving it 8 bytes of traffic: it pays in the wide stages, whose planes are
    small, so that a step holds a quarter of what autograd would. In 16 bits memory is what was asked for."""
    return strategy == "materialize" or (strategy is None and u.dtype is torch.float32 and u.shape[-1] >= SAVE_FROM)


def run(call: MlpGrnCall) -> Tensor:
    training = any_needs_grad(call.u, *call.weights, call.residual, call.row_scale)
    if training:
        kernels = SAVING if saves_hidden(call.u, call.strategy) else RECOMPUTING
    else:
        kernels = Kernels(_infer if torch.compiler.is_compiling() else infer, _backward)
    return autograd.run(kernels, call, call.eps, HELD_BYTES[call.strategy])


CPU = cpu.implementation(run)
