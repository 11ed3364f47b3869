"""The C++ backends, CPU and CUDA: schemas, shape functions and what they can run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ... import library
from ...dispatch import Implementation, Spec
from ...layouts import Layout
from .. import _cuda
from .._common import float_taps, in_one_dtype, taps
from .._sites import SITES, Sites
from ..layer_norm import native as layer_norm
from ..sparse_dwconv import native as sparse_dwconv
from .autograd import AtenBackward, DwconvLayerNorm

_ARGUMENTS = f"Tensor x, Tensor kernel, Tensor? bias, Tensor ln_weight, Tensor ln_bias, float eps, {SITES}"


def _check(x: Tensor, kernel: Tensor) -> None:
    torch._check(x.dim() == 2, lambda: f"dwconv_layer_norm: x must be rows [T, C]; got {tuple(x.shape)}")
    torch._check(
        kernel.dim() == 2 and kernel.shape[0] == 49 and kernel.shape[1] == x.shape[1],
        lambda: f"dwconv_layer_norm: kernel must be [49, C]; got {tuple(kernel.shape)} for x {tuple(x.shape)}",
    )


def _forward_fake(x: Tensor, kernel: Tensor, *_: Any) -> Tensor:
    _check(x, kernel)
    return x.new_empty(x.shape)


def _forward_train_fake(x: Tensor, kernel: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    _check(x, kernel)
    return x.new_empty(x.shape), x.new_empty(x.shape)


library.define(f"dwconv_layer_norm_fwd({_ARGUMENTS}) -> Tensor", _forward_fake)
library.define(f"dwconv_layer_norm_fwd_train({_ARGUMENTS}) -> (Tensor y, Tensor z)", _forward_train_fake)

# Contiguous rows x [T, C]; kernel [49, C], tap = kx*7 + ky, float32 on CUDA; bias, ln_weight, ln_bias [C].
# forward returns y; forward_train returns (y, z): z is LayerNorm's input.
KERNELS = SimpleNamespace(
    forward=torch.ops.convnextv2_fast.dwconv_layer_norm_fwd.default,
    forward_train=torch.ops.convnextv2_fast.dwconv_layer_norm_fwd_train.default,
    norm_backward=layer_norm.backward,
    backward=sparse_dwconv.KERNELS.backward,
)


def _apart(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float,
    *sites: Any,
) -> tuple[Tensor, Tensor]:
    """The same as two kernels, so that the convolution can run on the tensor cores."""
    z = sparse_dwconv.KERNELS.forward(x, kernel, bias, *sites)
    return layer_norm.forward(z, ln_weight, ln_bias, eps), z


APART = SimpleNamespace(
    forward=lambda *args: _apart(*args)[0],
    forward_train=_apart,
    norm_backward=layer_norm.backward,
    backward=sparse_dwconv.KERNELS.backward,
)


def _run(
    function: Any, kernels: Any, x: Tensor, kernel: Tensor, layout: Layout | None, eps: float, *vectors: Tensor | None
) -> Tensor:
    sites = Sites.around(x, layout)
    args = (x.reshape(-1, x.shape[-1]).contiguous(), kernel, *vectors)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in args):
        return function.apply(kernels, *args, eps, sites).view(x.shape)
    return kernels.forward(*args, eps, *sites).view(x.shape)


def run_cpu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    *,
    eps: float = 1e-6,
    layout: Layout | None = None,
) -> Tensor:
    """:func:`convnextv2_fast.ops.dwconv_layer_norm` on the CPU kernels; the backward is ATen's."""
    vectors = (None if v is None else v.reshape(-1).contiguous() for v in (bias, ln_weight, ln_bias))
    return _run(AtenBackward, KERNELS, x, taps(weight).contiguous(), layout, eps, *vectors)


def run_cuda(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    *,
    eps: float = 1e-6,
    layout: Layout | None = None,
) -> Tensor:
    """:func:`convnextv2_fast.ops.dwconv_layer_norm` on the CUDA kernels."""
    on_tensor_cores = _cuda.tensor_cores() and x.dtype != torch.float32 and (layout is None or layout.kind == "dense")
    kernels = APART if on_tensor_cores else KERNELS
    return _run(DwconvLayerNorm, kernels, x, float_taps(weight), layout, eps, *in_one_dtype(bias, ln_weight, ln_bias))


def _cpu_reasons(spec: Spec) -> list[str]:
    found = []
    missing = library.why_not("cpu")
    if missing is not None:
        found.append(missing)
    if spec.device != "cpu":
        found.append(f"its kernels run on cpu tensors, these are on {spec.device}")
    if spec.layout != "dense":
        found.append(f"its kernels take the dense layout [N, H, W, C], not the {spec.layout} layout")
    if spec.dtype not in _cuda.DTYPES:
        found.append(f"its kernels take float32, float16 and bfloat16, not {str(spec.dtype).removeprefix('torch.')}")
    if spec.param_dtype != spec.dtype and spec.param_dtype != torch.float32:
        found.append("its kernels take parameters that all have the activations' dtype, or are all float32")
    return found


CPU = Implementation("cpu", run_cpu, _cpu_reasons)
CUDA = _cuda.implementation(run_cuda)
