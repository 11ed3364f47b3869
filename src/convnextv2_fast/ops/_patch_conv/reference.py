"""Non-overlapping k x k, stride-k convolution with LayerNorm before or after, in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...layouts import DenseLayout, Layout, PatchLayout
from ...spec import Implementation, always
from .._layer_norm.reference import layer_norm
from .call import PatchConvCall
from .gather import Gather
from .weights import edge, matrix, transposed


def blocks_of_image(x: Tensor, k: int, layout: Layout) -> Tensor:
    """The k x k pixel blocks of x `[N, H, W, Cin]` under the sites of `layout` (the result's), `[T, k*k*Cin]`."""
    n, h, w = layout.shape
    c = x.shape[3]
    if isinstance(layout, PatchLayout):  # gather whole patches: the removed pixels are never touched
        s, (_, gh, gw) = layout.s, layout.grid
        p = s * k
        patches = x[:, : h * k, : w * k].reshape(n, gh, p, gw, p, c).permute(0, 1, 3, 2, 4, 5)
        i = layout.patches
        kept = patches[i // (gh * gw), i // gw % gh, i % gw]  # [P, p, p, Cin]
        return kept.view(-1, s, k, s, k, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, k * k * c)
    blocks = x[:, : h * k, : w * k].reshape(n, h, k, w, k, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, k * k * c)
    return blocks if layout.kind == "dense" else blocks.index_select(0, layout.index)


def blocks_of_rows(x: Tensor, k: int, layout: Layout) -> Tensor:
    """The children of each coarse site side by side, `[T', k*k*C]`, from rows x `[T, C]`; absent children are zero."""
    c = x.shape[1]
    if isinstance(layout, PatchLayout) and layout.s % k == 0:  # tile-local: no table, no coarse layout
        s = layout.s // k
        return x.view(-1, s, k, s, k, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, k * k * c)
    coarse, children = layout.coarsen(k)
    if children is None:
        return blocks_of_image(x.view(*layout.shape, c), k, coarse)
    padded = torch.cat((x, x.new_zeros(1, c)))  # row -1
    return padded[children].view(-1, k * k * c)


def patch_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    norm_before: tuple[Tensor, Tensor] | None = None,
    norm_after: tuple[Tensor, Tensor] | None = None,
    eps: float = 1e-6,
    layout: Layout | None = None,
) -> Tensor:
    """LayerNorm (if asked), convolution as one matrix product over k x k blocks, LayerNorm (if asked)."""
    k = edge(weight)
    if norm_before is not None:
        x = layer_norm(x, *norm_before, eps=eps)
    flat_bias = None if bias is None else bias.to(x.dtype).view(-1)
    if x.ndim == 4 and layout is None and weight.ndim == 4:
        y = F.conv2d(x.permute(0, 3, 1, 2), weight.to(x.dtype), flat_bias, stride=k).permute(0, 2, 3, 1)
    elif x.ndim == 4:
        out = layout or DenseLayout(x.shape[0], x.shape[1] // k, x.shape[2] // k)
        y = F.linear(blocks_of_image(x, k, out), matrix(weight).to(x.dtype).t(), flat_bias)
        y = y.view(*out.shape, y.shape[1]) if layout is None else y
    else:
        assert layout is not None
        y = F.linear(blocks_of_rows(x, k, layout), matrix(weight).to(x.dtype).t(), flat_bias)
    return y if norm_after is None else layer_norm(y, *norm_after, eps=eps)


def of_rows(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    gather: Gather,
) -> Tensor:
    """The same up to `norm_after`, `[T', Cout]`, from blocks and a weight in the kernels' form."""
    if norm_weight is not None and norm_bias is not None:
        x = layer_norm(x, norm_weight, norm_bias, eps=eps)
    table, k, c = gather.table, gather.k, x.shape[-1]
    if table is not None and table.ndim == 2:
        blocks = torch.cat((x.reshape(-1, c), x.new_zeros(1, c)))[table].view(-1, k * k * c)  # row -1 is zero
    else:
        h, w = gather.height // k, gather.width // k
        image = x.reshape(-1, gather.height, gather.width, c)[:, : h * k, : w * k]
        blocks = image.reshape(-1, h, k, w, k, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, k * k * c)
        blocks = blocks if table is None else blocks.index_select(0, table)
    return F.linear(blocks, transposed(weight).to(x.dtype), None if bias is None else bias.to(x.dtype))


def run(call: PatchConvCall) -> Tensor:
    before, after = (None if norm[0] is None else norm for norm in (call.norm_before, call.norm_after))
    norms = dict(norm_before=before, norm_after=after)
    return patch_conv(call.x, call.weight, call.bias, **norms, eps=call.eps, layout=call.layout)


TORCH = Implementation("torch", run, always)
