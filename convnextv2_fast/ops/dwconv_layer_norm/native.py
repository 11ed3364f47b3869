"""The C++ implementations, CPU and CUDA: schemas, shape functions and what they can run."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from ... import library
from ...dispatch import Implementation, Spec

_ARGUMENTS = "Tensor x, Tensor kernel, Tensor? bias, Tensor ln_weight, Tensor ln_bias, float eps"


def _check(x: Tensor, kernel: Tensor) -> None:
    torch._check(x.dim() == 4, lambda: f"dwconv_layer_norm: x must be [N, H, W, C]; got {tuple(x.shape)}")
    torch._check(
        kernel.dim() == 2 and kernel.shape[0] == 49 and kernel.shape[1] == x.shape[3],
        lambda: f"dwconv_layer_norm: kernel must be [49, C]; got {tuple(kernel.shape)} for x {tuple(x.shape)}",
    )


def _forward_fake(
    x: Tensor, kernel: Tensor, bias: Tensor | None, ln_weight: Tensor, ln_bias: Tensor, eps: float
) -> Tensor:
    _check(x, kernel)
    return x.new_empty(x.shape)


def _forward_train_fake(
    x: Tensor, kernel: Tensor, bias: Tensor | None, ln_weight: Tensor, ln_bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check(x, kernel)
    pixels = x.shape[0] * x.shape[1] * x.shape[2]
    mean, rstd = (x.new_empty((pixels,), dtype=torch.float32) for _ in range(2))
    return x.new_empty(x.shape), x.new_empty(x.shape), mean, rstd


library.define(f"dwconv_layer_norm_fwd({_ARGUMENTS}) -> Tensor", _forward_fake)
library.define(
    f"dwconv_layer_norm_fwd_train({_ARGUMENTS}) -> (Tensor y, Tensor z, Tensor mean, Tensor rstd)", _forward_train_fake
)

# x [N, H, W, C] contiguous; kernel [49, C], tap = kx*7 + ky; bias, ln_weight, ln_bias [C]; eps. No autograd.
# forward returns y; forward_train returns (y, z, mean, rstd): z is LayerNorm's input, mean and rstd float32 [N*H*W].
RUN = SimpleNamespace(
    forward=torch.ops.convnextv2_fast.dwconv_layer_norm_fwd.default,
    forward_train=torch.ops.convnextv2_fast.dwconv_layer_norm_fwd_train.default,
)

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _shared_reasons(spec: Spec, library_name: str) -> list[str]:
    found = []
    missing = library.why_not(library_name)
    if missing is not None:
        found.append(missing)
    if spec.device != library_name:
        found.append(f"its kernels run on {library_name} tensors, these are on {spec.device}")
    if spec.layout != "dense":
        found.append(f"its kernels take the dense layout [N, H, W, C], not the {spec.layout} layout")
    if spec.dtype not in _DTYPES:
        found.append(f"its kernels take float32, float16 and bfloat16, not {str(spec.dtype).removeprefix('torch.')}")
    if spec.param_dtype != spec.dtype and spec.param_dtype != torch.float32:
        found.append("its kernels take parameters that all have the activations' dtype, or are all float32")
    return found


def _cpu_reasons(spec: Spec) -> list[str]:
    return _shared_reasons(spec, "cpu")


def _cuda_reasons(spec: Spec) -> list[str]:
    found = _shared_reasons(spec, "cuda")
    if not found and not torch.cuda.is_available():
        found.append("torch sees no CUDA device")
    elif not found and not library.cuda_code_for(torch.cuda.get_device_capability()):
        archs = library.build_info().get("cuda_archs")
        found.append(f"_C_cuda.so has code for {archs}, not for this GPU; rebuild with TORCH_CUDA_ARCH_LIST set for it")
    return found


CPU = Implementation("cpu", RUN, _cpu_reasons)
CUDA = Implementation("cuda", RUN, _cuda_reasons, automatic=False)  # it has not run on a GPU yet
