"""The arguments of a call: what a graph is looked up by, and the memory from which it reads them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack
from torch.utils import _pytree as pytree
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from .. import dispatch, plain


@dataclass(frozen=True)
class Call:
    """Arguments, taken apart: tensors, and constants, which become part of a graph."""

    leaves: list[Any]
    spec: pytree.TreeSpec

    @classmethod
    def of(cls, args: Any, kwargs: Any = None) -> Call:
        return cls(*pytree.tree_flatten((tuple(args), dict(kwargs or {}))))

    @property
    def tensors(self) -> list[Tensor]:
        return [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = pytree.tree_unflatten(self.leaves, self.spec)
        return args, kwargs

    def why_not(self, device: torch.device) -> str | None:
        """Why a graph on this device cannot take these arguments; None: it can."""
        for leaf in self.leaves:
            if not isinstance(leaf, Tensor):
                if not _is_constant(leaf):
                    return f"an argument is a {type(leaf).__name__}: a graph takes tensors and plain constants"
                continue
            if type(leaf) is not Tensor and not isinstance(leaf, torch.nn.Parameter):
                return f"an argument is a {type(leaf).__name__}, a kind of tensor of its own"
            if leaf.device != device:
                return f"an argument is on {leaf.device}, the model on {device}"
            if leaf.layout != torch.strided:
                return f"an argument is a tensor of layout {leaf.layout}"
            if leaf.requires_grad and torch.is_grad_enabled():
                return "an argument requires a gradient, which a graph does not pass on"
        return None

    def key(self) -> Hashable:
        """Equal for calls that one graph may serve."""
        return (
            self.spec,
            tuple(
                (tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.device, leaf.is_conj(), leaf.is_neg())
                if isinstance(leaf, Tensor)
                else (type(leaf), repr(leaf) if isinstance(leaf, float | complex) else leaf)  # -0.0 equals 0.0
                for leaf in self.leaves
            ),
        )

    def static(self) -> Call:
        """The same with tensors of its own, which :meth:`fill` fills. One with holes, or of which several elements
        share memory, becomes a dense one of the same order of dimensions."""
        with torch.inference_mode(False), torch.no_grad():
            leaves = [torch.empty_like(leaf) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        return Call(leaves, self.spec)

    def fill(self, given: Call) -> None:
        """Copies the tensors of `given`, whose key is the same, into these."""
        with torch.no_grad():
            for mine, theirs in zip(self.tensors, given.tensors, strict=True):
                mine.copy_(theirs, non_blocking=True)


def _is_constant(leaf: Any) -> bool:
    return leaf is None or isinstance(leaf, bool | int | float | complex | str | bytes | torch.dtype | torch.device)


# What torch.backends.cudnn and torch.backends.cuda show; these functions take a tenth of the time.
_GETTERS = [
    getattr(torch._C, name)
    for name in (
        "_get_cudnn_enabled",
        "_get_cudnn_benchmark",
        "_get_cudnn_deterministic",
        "_get_cublas_allow_fp16_reduced_precision_reduction",
        "_get_cublas_allow_bf16_reduced_precision_reduction",
        "_get_cublas_allow_fp16_accumulation",
        "_get_flash_sdp_enabled",
        "_get_mem_efficient_sdp_enabled",
        "_get_math_sdp_enabled",
        "_get_cudnn_sdp_enabled",
    )
    if hasattr(torch._C, name)
]


# The older switches (allow_tf32, set_float32_matmul_precision) set these, too, and fail where these were set.
_PRECISIONS = [("generic", "all"), *(("cuda", kind) for kind in ("all", "matmul", "conv", "rnn"))]


def settings(device: torch.device) -> Hashable:
    """Of this thread and process: what operators look at beside their arguments, and a graph therefore keeps."""
    kind = device.type
    autocast = torch.is_autocast_enabled(kind)
    return (
        torch.get_autocast_dtype(kind) if autocast else None,
        tuple(dispatch.requested(*dispatch.registered_ops())),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_default_device(),
        *(getter() for getter in _GETTERS),
        *(torch._C._get_fp32_precision_getter(*of) for of in _PRECISIONS),
    )


def why_not_here(device: str = "cuda") -> str | None:
    """Why whoever calls has to see the operators themselves, and not a replay; None: nobody looks."""
    if torch.compiler.is_compiling():
        return "torch.compile is compiling this call"
    return plain.why(device) or _mode_at_work()


def _mode_at_work() -> str | None:
    """Modes see every operator; that of a default device (`torch.device` as a context) is part of :func:`settings`."""
    functions = _get_current_function_mode_stack() if torch._C._len_torch_function_stack() else []
    others = [mode for mode in functions if not isinstance(mode, DeviceContext)]
    if torch._C._len_torch_dispatch_stack():
        others += _get_current_dispatch_mode_stack()
    return f"a {type(others[0]).__name__} is at work, which would not see a replay" if others else None


def is_plain(result: Any) -> bool:
    """Whether a result is made of tensors and constants alone, so that all its tensors can be found."""
    return all(isinstance(leaf, Tensor) or _is_constant(leaf) for leaf in pytree.tree_leaves(result))


def versions(call: Call) -> list[int]:
    """By which a write into a tensor of the arguments is noticed."""
    return [t._version for t in call.tensors if not t.is_inference()]
