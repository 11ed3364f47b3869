"""Linear, GELU, GRN, Linear, residual and drop path in plain PyTorch."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ...spec import Implementation, always
from .._grn import reference as grn
from .._grn.call import GrnCall
from .call import MlpGrnCall


def run(call: MlpGrnCall) -> Tensor:
    """`residual + row_scale * (GRN(GELU(u w1' + b1)) w2' + b2)`; the erf GELU. It materialises everything."""
    u, w, row_scale, dtype = call.u, call.weights, call.row_scale, call.u.dtype
    rows = u.reshape(-1, u.shape[-1])
    a = F.gelu(F.linear(rows, w.w1.to(dtype), w.b1.to(dtype)))
    a = grn.run(GrnCall(a, w.gamma, w.beta, call.eps, call.groups))
    y = F.linear(a, w.w2.to(dtype), w.b2.to(dtype))
    if row_scale is not None:
        runs = row_scale.shape[0]
        y = y.view(runs, y.shape[0] // max(runs, 1), y.shape[1]) * row_scale.to(dtype).view(-1, 1, 1)
    y = y.reshape(*u.shape[:-1], w.w2.shape[0])
    return y if call.residual is None else call.residual.view(y.shape) + y


def mlp_grn(*args: Tensor, **options: Any) -> Tensor:
    """:func:`convnextv2_fast.ops.mlp_grn` in plain PyTorch, without its checks and its layer scale."""
    return run(MlpGrnCall.of(*args, **options))


TORCH = Implementation("torch", run, always)
