"""mlp_grn's CPU operators and backend.

Both products in chunks of whole groups whose hidden activations stay in the cache (strategy "chunked"); a group too
large for that is computed in slices, twice ("recompute"). Backward computes the hidden activations again, except where
:func:`keeps` says.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ... import library
from .._shared import cpu as _cpu
from .._shared import packed as _kept
from .._shared.checks import samples
from .._shared.groups import GROUPS, Groups
from . import autograd

# Bytes of hidden activations up to which a group is computed at once, by strategy.
HELD_BYTES = {None: 48 << 20, "chunked": 48 << 20, "recompute": 0, "materialize": 1 << 62}
KEEP_FROM = 320  # channels from which a float32 forward keeps the hidden activations

_WEIGHTS = "Tensor w1, Tensor b1, Tensor gamma, Tensor beta, Tensor w2"
_FORWARD = f"(Tensor u, {_WEIGHTS}, Tensor b2, Tensor? residual, Tensor? row_scale, float eps, int held_bytes, {GROUPS}"


def _pack_fake(w1: Tensor, *_: Any) -> Tensor:
    raise NotImplementedError("mlp_grn_cpu_pack: its size depends on the instruction set; it is not for tracing")


def _forward_fake(
    u: Tensor,
    w1: Tensor,
    b1: Tensor,
    gamma: Tensor,
    beta: Tensor,
    w2: Tensor,
    b2: Tensor,
    residual: Tensor | None,
    row_scale: Tensor | None,
    eps: float,
    held_bytes: int,
    rows_per_group: int,
    count: int,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y = u.new_empty((u.shape[0], w2.shape[0]), dtype=(u if residual is None else residual).dtype)
    rows = u.shape[0] + 1 if rest[-1] is True else 0
    saved_hidden = u.new_empty((rows, (w1.shape[0] + 31) // 32 * 32), dtype=torch.float32)
    norm = u.new_empty((count, w1.shape[0]), dtype=torch.float32)
    return y, norm, saved_hidden, u.new_empty((0,), dtype=torch.float32)


def _kept_fake(*args: Any) -> tuple[Tensor, Tensor]:
    return _forward_fake(*args)[:2]


def _backward_fake(
    dy: Tensor, u: Tensor, w1: Tensor, b1: Tensor, gamma: Tensor, beta: Tensor, w2: Tensor, *_: Any
) -> tuple[Tensor, ...]:
    params = (w1, b1, gamma, beta, w2)
    return (
        u.new_empty(u.shape),
        *(p.new_empty(p.shape, dtype=torch.float32) for p in params),
        u.new_empty((w2.shape[0],), dtype=torch.float32),
    )


library.define(
    "mlp_grn_cpu_pack(Tensor w1, Tensor b1, Tensor beta, Tensor w2, Tensor b2, bool bfloat16=False) -> Tensor",
    _pack_fake,
)
library.define(
    f"mlp_grn_cpu_fwd{_FORWARD}, Tensor? packed, bool save_hidden) "
    "-> (Tensor y, Tensor norm, Tensor saved_hidden, Tensor repacked)",
    _forward_fake,
)
library.define(
    f"mlp_grn_cpu_kept{_FORWARD}) -> (Tensor y, Tensor norm)", _kept_fake, f"{__name__}:forward_on_kept_weights"
)
library.define(
    f"mlp_grn_cpu_bwd(Tensor dy, Tensor u, {_WEIGHTS}, Tensor norm, float eps, int held_bytes, {GROUPS}, "
    "Tensor? saved_hidden) -> (Tensor du, Tensor dw1, Tensor db1, Tensor dgamma, Tensor dbeta, Tensor dw2, Tensor db2)",
    _backward_fake,
)
# Contiguous u [T, C], w1 [K, C], w2 [C', K], vectors flat; parameters in u's dtype or float32; residual [T, C'] gives
# y's dtype; row_scale float32; norm float32 [G, K]; parameters' gradients float32. No autograd. packed: of
# mlp_grn_cpu_pack, bfloat16 where u is, instead of packing anew (mlp_grn_cpu_kept: of packed.py); `repacked`: a new
# copy in the place of a stale one, else [0]. save_hidden: `saved_hidden` is a header row, then u w1' + b1, float32, in
# the order of the instruction set; else it has no rows.
_pack = torch.ops.convnextv2_fast.mlp_grn_cpu_pack.default
_forward = torch.ops.convnextv2_fast.mlp_grn_cpu_fwd.default
_backward = torch.ops.convnextv2_fast.mlp_grn_cpu_bwd.default
_kept_forward = torch.ops.convnextv2_fast.mlp_grn_cpu_kept.default


def forward_on_kept_weights(
    u: Tensor, w1: Tensor, b1: Tensor, gamma: Tensor, beta: Tensor, w2: Tensor, b2: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    """Runs the forward pass with packed weights, which are kept until the weights change."""
    packed = _kept.copy_of(_pack, w1, b1, beta, w2, b2, options=(_kept.in_pairs(u.dtype),))
    y, norm, _, repacked = _forward(u, w1, b1, gamma, beta, w2, b2, *rest, packed, False)
    _kept.replace(packed, repacked)
    return y, norm


TRAINING = SimpleNamespace(
    forward=lambda *args: _forward(*args, None, False)[:2], backward=lambda *args: _backward(*args, None)
)
KEEPING = SimpleNamespace(forward=lambda *args: _forward(*args, None, True)[:3], backward=_backward)
INFERENCE = SimpleNamespace(
    forward=lambda *args: _kept_forward(*args) if torch.compiler.is_compiling() else forward_on_kept_weights(*args)
)


def keeps(u: Tensor, strategy: str | None) -> bool:
    """Whether the forward pass saves the hidden activations for the backward pass.

    Computing one again costs 2C operations, keeping it 8 bytes of traffic: it pays in the wide stages, whose planes are
    small, so that a step keeps a quarter of what autograd would. In 16 bits memory is what was asked for."""
    return strategy == "materialize" or (strategy is None and u.dtype is torch.float32 and u.shape[-1] >= KEEP_FROM)


def run(
    u: Tensor,
    w1: Tensor,
    b1: Tensor,
    gamma: Tensor,
    beta: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    residual: Tensor | None = None,
    row_scale: Tensor | None = None,
    eps: float = 1e-6,
    rows_per_group: int | Tensor | None = None,
    strategy: str | None = None,
) -> Tensor:
    """:func:`convnextv2_fast.ops.mlp_grn` on CPU kernels."""
    rows = u.numel() // u.shape[-1] if u.shape[-1] else 0
    of = Groups.of(rows, samples(u, rows_per_group, "mlp_grn"), u.device)
    if residual is not None:
        residual = residual.to(torch.promote_types(u.dtype, residual.dtype))
    if row_scale is not None:
        row_scale = row_scale.float()
    tensors = (u, w1, b1, gamma, beta, w2, b2, residual, row_scale)
    training = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    options = (eps, HELD_BYTES[strategy])
    kernels = (KEEPING if keeps(u, strategy) else TRAINING) if training else INFERENCE
    return autograd.run(kernels, u, w1.contiguous(), b1, gamma, beta, w2.contiguous(), b2, *tensors[7:], options, of)


CPU = _cpu.implementation(run)
