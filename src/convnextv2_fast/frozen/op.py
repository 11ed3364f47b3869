"""The operators of frozen models: one packs all steps of a model into a program, one runs it. csrc/cpu/model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .. import library


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


# csrc/torch/model_cpu.cpp. `plan` holds (kind, place of the norm) of each step, `eps` (LayerNorm's, GRN's); `weights`
# are contiguous, in the order of csrc/cpu/model/model.h, absent ones without elements. dtype: 0 float32, 1 bfloat16,
# 2 float16. Returns the program, float32 [count], for the instruction set in use.
pack = library.define("model_cpu_pack(int[] plan, float[] eps, Tensor[] weights, int dtype) -> Tensor", _pack_fake)
# Images [N, C, H, W] of any strides in the program's dtype; `wanted`: the numbers of each Output, no step twice.
# Returns them in order, contiguous, in the image's dtype. `start`: the first step to run; the image is what that step
# takes, and reductions are relative to it. If it is no patch convolution, the image has the strides of channels_last.
# No autograd.
forward = library.define(
    "model_cpu_fwd(Tensor image, Tensor program, int[] wanted, int start=0) -> Tensor[]", _forward_fake
)
