"""Gradients of a patch convolution by torch's matrix products, for backends whose kernels gather and scatter blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from . import weights
from .call import Blocks, InputGradient, ParameterGradients, Scatter
from .gather import Gather


def by_torch(blocks: Blocks, scatter: Scatter) -> tuple[ParameterGradients, InputGradient]:
    """Returns the two members of :class:`Kernels` that make the gradients, from a backend's other two operators."""

    def parameter_gradients(
        dz: Tensor,
        x: Tensor,
        weight: Tensor,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        eps: float,
        gather: Gather,
        wanted: tuple[bool, bool],
        *statistics: Tensor,
    ) -> tuple[Tensor | None, Tensor | None]:
        wants_dweight, wants_dbias = wanted
        dweight = dbias = None
        if wants_dweight:
            dweight = weights.gradient(blocks(x, norm_weight, norm_bias, eps, gather, *statistics), dz, weight)
        if wants_dbias:
            dbias = dz.sum(0, dtype=torch.float32)
        return dweight, dbias

    def input_gradient(dz: Tensor, weight: Tensor, sources: int, covers: bool, gather: Gather) -> Tensor:
        return scatter(dz @ weights.transposed(weight).to(dz.dtype), sources, covers, *gather)

    return parameter_gradients, input_gradient
