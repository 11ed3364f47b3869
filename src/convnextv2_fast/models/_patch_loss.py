"""FCMAE's loss: the mean squared error of predicted patches, on the patches that count only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _WeightedError(torch.autograd.Function):
    """`sum_t weight_t * mean_d (pred - target)^2`; keeps the difference alone."""

    @staticmethod
    def forward(ctx: Any, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        difference = pred - target
        ctx.save_for_backward(difference, weight)
        ctx.dtype = pred.dtype
        return torch.dot(torch.linalg.vector_norm(difference, dim=-1).square_(), weight) / pred.shape[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        difference, weight = ctx.saved_tensors
        factor = weight * (g * (2.0 / difference.shape[1]))
        return (difference * factor.unsqueeze(1)).to(ctx.dtype), None, None


def patch_loss(pred: Tensor, target: Tensor, weight: Tensor, normalise: bool) -> Tensor:
    """`sum_t weight_t * mean_d (pred_td - target_td)^2 / sum_t weight_t`, a scalar in float32 at least.

    Args:
        pred, target: `[T, D]`, a row a patch. weight: `[T]`.
        normalise: every target patch to mean 0 and variance 1 (unbiased, eps 1e-6), as MAE's norm_pix_loss.
    """
    target = target.to(torch.promote_types(torch.promote_types(pred.dtype, target.dtype), torch.float32))
    if not target.shape[0]:  # no patch: NaN, as any mean of nothing
        return torch.nn.functional.mse_loss(pred.to(target.dtype), target)
    if normalise:
        var, mean = torch.var_mean(target, dim=-1, keepdim=True)
        target = (target - mean) / (var + 1.0e-6) ** 0.5
    weight = weight.to(target.dtype)
    weight = weight / weight.sum()
    if torch.compiler.is_compiling() or target.requires_grad:
        return torch.dot((pred.to(target.dtype) - target).square().mean(dim=-1), weight)
    return _WeightedError.apply(pred, target, weight)
