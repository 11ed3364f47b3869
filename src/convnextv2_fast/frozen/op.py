"""The operators of frozen models: one packs all steps of a model into a program, one runs it. csrc/cpu/model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from .. import library
from ..errors import UnsupportedInputError


class Output(NamedTuple):
    """A result of a program: that of a step, a map `[N, H // reduction, W // reduction, channels]` or a vector
    `[N, channels]`."""

    step: int
    is_map: bool
    channels: int
    reduction: int


def _pack_fake(plan: Sequence[int], eps: Sequence[float], weights: Sequence[Tensor], dtype: int) -> Tensor:
    raise NotImplementedError("model_cpu_pack: its size depends on the instruction set; it is not for tracing")


def _forward_fake(image: Tensor, program: Tensor, wanted: Sequence[int], start: int = 0) -> list[Tensor]:
    n, _, h, w = image.shape
    results = []
    for i in range(0, len(wanted), len(Output._fields)):
        _, is_map, channels, reduction = wanted[i : i + len(Output._fields)]
        shape = (n, h // reduction, w // reduction, channels) if is_map else (n, channels)
        results.append(image.new_empty(shape))
    return results


def _forward_autograd(
    keys: torch._C.DispatchKeySet, image: Tensor, program: Tensor, wanted: Sequence[int], start: int = 0
) -> list[Tensor]:
    """Refuses to drop a gradient. A frozen model asks itself, but a graph that was made of it (torch.jit.trace,
    torch.export, torch.fx) calls the operator alone."""
    if image.requires_grad and torch.is_grad_enabled():
        raise UnsupportedInputError(
            "model_cpu_fwd: a frozen model has no gradients, and the image requires one; detach the image, call the "
            "graph under torch.no_grad(), or make it of the model as it was before it was frozen"
        )
    below: list[Tensor] = operator.redispatch(keys & torch._C._after_autograd_keyset, image, program, wanted, start)
    return below


def _forward_autocast(image: Tensor, program: Tensor, wanted: Sequence[int], start: int = 0) -> NoReturn:
    """Refuses autocast, which a graph would otherwise ignore. It is called only while autocast is enabled."""
    raise UnsupportedInputError(
        f"model_cpu_fwd: autocast does not reach into a frozen model, which computes in {image.dtype}; call the graph "
        "outside autocast, and for bfloat16 convert the model by .to(torch.bfloat16) before it is frozen"
    )


# csrc/torch/model_cpu.cpp. `plan` holds (kind, place of the norm) of each step, `eps` (LayerNorm's, GRN's); `weights`
# are contiguous, in the order of csrc/cpu/model/model.h, absent ones without elements. dtype: 0 float32, 1 bfloat16,
# 2 float16. Returns the program, float32 [count], for the instruction set in use.
pack = library.define("model_cpu_pack(int[] plan, float[] eps, Tensor[] weights, int dtype) -> Tensor", _pack_fake)
# Images [N, C, H, W] of any strides in the program's dtype; `wanted`: the numbers of each Output, no step twice.
# Returns them in order, contiguous, in the image's dtype. `start`: the first step to run; the image is what that step
# takes, and reductions are relative to it. If it is no patch convolution, the image has the strides of channels_last.
# A gradient and autocast are refused.
operator = library.define(
    "model_cpu_fwd(Tensor image, Tensor program, int[] wanted, int start=0) -> Tensor[]", _forward_fake
)
library.refine(operator, "Autograd", _forward_autograd, with_keyset=True)
library.refine(operator, "AutocastCPU", _forward_autocast)


def forward(image: Tensor, program: Tensor, wanted: list[int], start: int) -> list[Tensor]:
    """Calls the operator on an image that needs no gradient, as its caller has found out.

    It passes by the operator's Autograd kernel, which takes 9 microseconds in Python. Compilers see the whole operator,
    as their graphs may be called with any image."""
    if torch.compiler.is_compiling():
        results: list[Tensor] = operator(image, program, wanted, start)
        return results
    with torch._C._AutoDispatchBelowAutograd():
        results = operator(image, program, wanted, start)
    return results
