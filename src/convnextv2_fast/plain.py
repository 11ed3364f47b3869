"""When only plain PyTorch gives the right answer: somebody looks into an op, or differentiates it in another way than
by one backward pass, and a kernel is closed to both.

:mod:`convnextv2_fast.dispatch` asks :func:`why` at every call. Each of these states belongs to the current thread.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch.autograd import forward_ad

_TORCH = torch._C
JIT = "torch.jit.trace records PyTorch's own operators"


def recorded_by_jit() -> bool:
    """Whether torch.jit.trace records what runs, in which sizes are tensors. Whatever is built on it records too:
    OpenVINO's and Core ML's converters, the TorchScript-based ONNX exporter, TensorBoard's graphs."""
    return not torch.compiler.is_compiling() and _TORCH._get_tracing_state() is not None


def width(parameter: torch.Tensor) -> int:
    """The number of a parameter's elements, a constant for torch.jit.trace too: models are traced for other images, not
    for other widths, and the ONNX exporter wants LayerNorm's as a number."""
    if not recorded_by_jit():
        return parameter.numel()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of a size that becomes a number
        return int(parameter.numel())


def why(device: str) -> str | None:
    """Why no kernel may run at present on a type of device, in words; None if kernels may run. torch.compile by itself
    is no such reason: it takes the kernels as operators and does not differentiate through them twice."""
    if forward_ad._current_level >= 0:  # torch.compile guards on it
        return "forward-mode derivatives are taken here (torch.autograd.forward_ad), which kernels do not have"
    if torch.compiler.is_compiling():
        return None
    if _TORCH._get_tracing_state() is not None:
        return JIT
    if _TORCH._are_functorch_transforms_active():
        return "a torch.func transform is at work (grad, vmap, jvp ...), and it sees into PyTorch's own operators alone"
    if _TORCH._len_torch_dispatch_stack():
        return _why_not_under_modes(device)
    return None


def _why_not_under_modes(device: str) -> str | None:
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    for mode in _get_current_dispatch_mode_stack():
        kind: Any = type(mode)
        reason = _why_not_under(kind)
        if reason is not None and not (reason is _FAKE and device != "cpu"):
            return reason
    return None


@functools.cache
def _why_not_under(mode: type) -> str | None:
    names = {f"{base.__module__}.{base.__qualname__}" for base in mode.__mro__}  # nothing of it is imported for this
    for name, reason in _MODES.items():
        if name in names:
            return reason
    return None


_FAKE = "under FakeTensorMode there is no data to pack weights of"  # other devices' operators pack none
_MODES = {
    "torch._subclasses.fake_tensor.FakeTensorMode": _FAKE,
    "torch.fx.experimental.proxy_tensor.ProxyTorchDispatchMode": "make_fx records PyTorch's own operators",
    "torch.utils.flop_counter._FlopCounterMode": "FlopCounterMode counts PyTorch's own operators",
    "torch.utils.flop_counter.FlopCounterMode": "FlopCounterMode counts PyTorch's own operators",
}
