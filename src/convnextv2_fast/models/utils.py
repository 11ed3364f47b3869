"""Upstream's `models/utils.py`: LayerNorm, GRN and their sparse forms; drop path and initialisation beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .. import dispatch, fusion, ops
from ..errors import UnsupportedInputError
from ..graph import as_leaf
from ..layouts import SparseTensor


def trunc_normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Tensor:
    """Fills with a normal truncated to [a, b], by the inverse distribution function: one uniform draw per element.

    torch.nn.init's function of this name draws differently from torch 2.13 on; this one keeps upstream's draws.
    """

    def cdf(x: float) -> float:
        return (1.0 + math.erf(x / math.sqrt(2.0))) / 2.0

    low, high = cdf((a - mean) / std), cdf((b - mean) / std)
    with torch.no_grad():
        tensor.uniform_(2 * low - 1, 2 * high - 1)
        return tensor.erfinv_().mul_(std * math.sqrt(2.0)).add_(mean).clamp_(min=a, max=b)


def zero_(bias: Tensor | None) -> None:
    """Fills a bias with zeros, where there is one."""
    if bias is not None:
        nn.init.zeros_(bias)


class LayerNorm(nn.Module):
    """LayerNorm over channels of `[N, H, W, C]` ("channels_last") or `[N, C, H, W]` ("channels_first") inputs.

    Raises:
        NotImplementedError: another `data_format`, as upstream.
    """

    def __init__(self, normalized_shape: int, eps: float = 1e-6, data_format: str = "channels_last") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(normalized_shape))
        self.bias = nn.Parameter(torch.zeros(normalized_shape))
        self.eps = eps
        self.data_format = data_format
        if data_format not in ("channels_last", "channels_first"):
            raise NotImplementedError(f"data_format must be channels_last or channels_first, got {data_format!r}")
        self.normalized_shape = (normalized_shape,)

    def forward(self, x: Tensor) -> Tensor:
        node = as_leaf(self, x)
        if node is not None:
            return node
        if self.data_format == "channels_last":
            return ops.layer_norm(x, self.weight, self.bias, eps=self.eps)
        return ops.layer_norm(x.permute(0, 2, 3, 1), self.weight, self.bias, eps=self.eps).permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape[0]}, eps={self.eps}, data_format={self.data_format}"


class GRN(nn.Module):
    """Global response normalisation of `[N, H, W, C]`, one group a sample. `gamma`, `beta` `[1, 1, 1, C]`, zero."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        node = as_leaf(self, x)
        return ops.grn(x, self.gamma, self.beta, eps=self.eps) if node is None else node

    def extra_repr(self) -> str:
        return f"{self.gamma.numel()}, eps={self.eps}"


def drop_path_scale(x: Tensor, samples: int, drop_prob: float, scale_by_keep: bool = True) -> Tensor:
    """Per-sample factors `[samples]`, 0 or 1/keep, in x's dtype: timm's draws from the same generator state."""
    keep = 1 - drop_prob
    factor = x.new_empty((samples, 1, 1, 1)).bernoulli_(keep)
    if keep > 0.0 and scale_by_keep:
        factor.div_(keep)
    return factor.view(samples)


def drop_path_rates(rate: float, depths: Sequence[int]) -> Iterator[float]:
    """One rate per block, linear from 0 to `rate`; on the CPU even when the model is built on the meta device."""
    return iter(torch.linspace(0, rate, sum(depths), device="cpu").tolist())


def checkpointed(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Runs torch.utils.checkpoint, which computes `run(x)` again in backward, on the backends that were asked for."""
    if torch.compiler.is_compiling():  # it traces no context, and needs none: the choice is made by then
        return checkpoint(run, x, use_reentrant=False)
    return checkpoint(run, x, use_reentrant=False, context_fn=dispatch.recomputing)


class DropPath(nn.Module):
    """Stochastic depth per sample (timm's class of this name). Identity in evaluation."""

    def __init__(self, drop_prob: float = 0.0, scale_by_keep: bool = True) -> None:
        super().__init__()
        self.drop_prob = drop_prob
        self.scale_by_keep = scale_by_keep

    def row_scale(self, x: Tensor, samples: int) -> Tensor | None:
        """Factors `[samples]`, or None where nothing is dropped."""
        if self.drop_prob == 0.0 or not self.training:
            return None
        return drop_path_scale(x, samples, self.drop_prob, self.scale_by_keep)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.row_scale(x, x.shape[0])
        return x if scale is None else x * scale.view(-1, *(1,) * (x.ndim - 1))

    def extra_repr(self) -> str:
        return f"drop_prob={round(self.drop_prob, 3):0.3f}"


def grn_groups(x: SparseTensor, scope: str) -> int | Tensor:
    """`rows_per_group` of the sparse GRN: all rows of the batch, or those of each sample."""
    return max(len(x), 1) if scope == "batch" else x.layout.rows_per_sample


def check_scope(scope: str) -> str:
    if scope not in ("batch", "sample"):
        raise UnsupportedInputError(f"grn_scope must be 'batch' (upstream's) or 'sample', got {scope!r}")
    return scope


class MinkowskiGRN(nn.Module):
    """GRN over active sites. `gamma`, `beta` `[1, C]`, zero.

    Args:
        grn_scope: "batch" takes one norm over all active sites of the batch, as upstream's PyTorch code does; "sample"
            one per sample, as the paper, the dense model and upstream's JAX training do.
    """

    def __init__(self, dim: int, grn_scope: str = "batch", grn_eps: float = 1e-6) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, dim))
        self.beta = nn.Parameter(torch.zeros(1, dim))
        self.grn_scope, self.eps = check_scope(grn_scope), grn_eps

    def forward(self, x: SparseTensor) -> SparseTensor:
        group = grn_groups(x, self.grn_scope)
        return x.replace(ops.grn(x.F, self.gamma, self.beta, eps=self.eps, rows_per_group=group))

    def extra_repr(self) -> str:
        return f"{self.gamma.numel()}, grn_scope={self.grn_scope}, eps={self.eps}"


class MinkowskiDropPath(nn.Module):
    """Stochastic depth per sample of sparse rows.

    Two deliberate differences from upstream, where it is never active: the factors follow the samples rather than the
    row order, and they come from torch's generator rather than numpy's."""

    def __init__(self, drop_prob: float = 0.0, scale_by_keep: bool = True) -> None:
        super().__init__()
        self.drop_prob = drop_prob
        self.scale_by_keep = scale_by_keep

    def row_scale(self, x: SparseTensor) -> Tensor | None:
        """Factors `[N]` where all samples have the same number of rows, else `[T]`; None where nothing is dropped."""
        if self.drop_prob == 0.0 or not self.training:
            return None
        scale = drop_path_scale(x.F, x.layout.shape[0], self.drop_prob, self.scale_by_keep)
        per_sample = x.layout.rows_per_sample
        if isinstance(per_sample, int):
            return scale
        return scale.repeat_interleave(per_sample.to(scale.device), output_size=len(x))

    def forward(self, x: SparseTensor) -> SparseTensor:
        scale = self.row_scale(x)
        if scale is None:
            return x
        runs = scale.shape[0]
        rows = x.F.view(runs, len(x) // max(runs, 1), x.F.shape[1]) * scale.view(-1, 1, 1)
        return x.replace(rows.view(x.F.shape))

    def extra_repr(self) -> str:
        return f"drop_prob={round(self.drop_prob, 3):0.3f}"


class MinkowskiLayerNorm(nn.Module):
    """LayerNorm over the channels of sparse rows; holds an `nn.LayerNorm` under upstream's name `ln`."""

    def __init__(self, normalized_shape: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(normalized_shape, eps=eps)

    def forward(self, input: SparseTensor) -> SparseTensor:
        ln = self.ln
        if fusion.why_not_any() or fusion.why_not_layer_norm(ln, (nn.LayerNorm,), "channels_last"):
            return input.replace(ln(input.F))
        return input.replace(ops.layer_norm(input.F, ln.weight, ln.bias, eps=ln.eps))
