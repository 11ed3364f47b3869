"""The references against independent formulas: upstream's modules, masked dense convolution, brute force."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convnextv2_fast as cf
from convnextv2_fast.layouts import DenseLayout, PatchLayout, SiteLayout
from convnextv2_fast.testing import layout_for, make

D = torch.float64


def upstream_grn(x, gamma, beta):
    gx = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
    return gamma * (x * (gx / (gx.mean(dim=-1, keepdim=True) + 1e-6))) + beta + x


def test_grn():
    p = make("grn", 3, 5, 4, 12)
    t = p.tensors
    torch.testing.assert_close(p.reference(), upstream_grn(t["x"], t["gamma"], t["beta"]), rtol=1e-12, atol=1e-12)


def test_layer_norm_channels_first_is_upstreams_formula():
    norm = cf.utils.LayerNorm(6, data_format="channels_first").double()
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 5, 3, dtype=D)
    u = x.mean(1, keepdim=True)
    s = (x - u).pow(2).mean(1, keepdim=True)
    want = norm.weight[:, None, None] * ((x - u) / torch.sqrt(s + 1e-6)) + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), want, rtol=1e-12, atol=1e-12)


def test_mlp_grn():
    p = make("mlp_grn", 2, 3, 5, 6)
    t = p.tensors
    a = F.gelu(t["u"] @ t["w1"].T + t["b1"])
    y = upstream_grn(a, t["gamma"], t["beta"]) @ t["w2"].T + t["b2"]
    want = t["residual"] + t["row_scale"].view(-1, 1, 1, 1) * y
    torch.testing.assert_close(p.reference(), want, rtol=1e-12, atol=1e-12)


def test_gelu_is_erf():
    c, eye, zero = 4, torch.eye(4, dtype=D), torch.zeros(4, dtype=D)
    u = torch.randn(1, 3, 3, c, dtype=D)
    y = cf.ops.mlp_grn(u, eye, zero, zero, zero, eye, zero)
    torch.testing.assert_close(y, u * 0.5 * (1 + torch.erf(u / 2**0.5)), rtol=1e-12, atol=1e-12)


def test_dwconv_is_cross_correlation_by_brute_force():
    n, h, w, c = 2, 5, 9, 3
    x, kernel, bias = torch.randn(n, h, w, c, dtype=D), torch.randn(49, c, dtype=D), torch.randn(c, dtype=D)
    want = torch.zeros(n, h, w, c, dtype=D) + bias
    for y in range(h):
        for z in range(w):
            for ky in range(7):
                for kx in range(7):
                    i, j = y + ky - 3, z + kx - 3
                    if 0 <= i < h and 0 <= j < w:
                        want[:, y, z] += kernel[kx * 7 + ky] * x[:, i, j]
    got = cf.ops.sparse_dwconv(x.view(-1, c), kernel, bias, layout=DenseLayout(n, h, w))
    torch.testing.assert_close(got.view_as(want), want, rtol=1e-12, atol=1e-12)
    ones, zeros = torch.ones(c, dtype=D), torch.zeros(c, dtype=D)
    got = cf.ops.dwconv_layer_norm(x, kernel, bias, ones, zeros, eps=1e-6)
    torch.testing.assert_close(got, F.layer_norm(want, (c,), eps=1e-6), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["patch", "ragged", "site"])
def test_sparse_equals_masked_dense(kind):
    """Multiply by the mask, convolve densely, read at the active sites."""
    layout = layout_for(kind, 2, 5, 4)
    c = 6
    kernel, bias = torch.randn(49, c, dtype=D), torch.randn(c, dtype=D)
    active = (layout.site_map >= 0).unsqueeze(-1)
    dense = torch.randn(*layout.shape, c, dtype=D)
    weight = kernel.view(7, 7, c).permute(2, 1, 0).unsqueeze(1)
    z = F.conv2d((dense * active).permute(0, 3, 1, 2), weight, bias, padding=3, groups=c).permute(0, 2, 3, 1)
    got = cf.ops.sparse_dwconv(layout.from_dense(dense), kernel, bias, layout=layout)
    torch.testing.assert_close(layout.to_dense(got), z * active, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 8, 12), (1, 9, 7), (2, 4, 4)])
def test_patch_conv_stem_and_downsampling(shape):
    n, h, w = shape
    image = torch.randn(n, 3, h, w, dtype=D)
    conv, norm = nn.Conv2d(3, 5, 4, 4).double(), nn.LayerNorm(5, eps=1e-6).double()
    nn.init.normal_(norm.weight)
    want = norm(conv(image).permute(0, 2, 3, 1))
    rows = image.permute(0, 2, 3, 1)
    got = cf.ops.patch_conv(rows, conv.weight, conv.bias, norm_after=(norm.weight, norm.bias))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    if h % 4 == w % 4 == 0:
        mask = torch.tensor([[[0.0, 1.0] * 8] * 8] * n)[:, : h // 4, : w // 4]
        layout = PatchLayout.from_mask(mask, 1)
        got = cf.ops.patch_conv(rows, conv.weight, conv.bias, norm_after=(norm.weight, norm.bias), layout=layout)
        torch.testing.assert_close(got, layout.from_dense(want), rtol=1e-12, atol=1e-12)
    before, down = nn.LayerNorm(3, eps=1e-6).double(), nn.Conv2d(3, 7, 2, 2).double()
    want = down(before(rows).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    kernel = down.weight.permute(3, 2, 1, 0).reshape(4, 3, 7)  # tap = kx*2 + ky
    for weight in (down.weight, kernel):
        got = cf.ops.patch_conv(rows, weight, down.bias, norm_before=(before.weight, before.bias))
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_patch_conv_counts_absent_children_as_zero_after_the_norm():
    active = torch.zeros(1, 4, 4)
    active[0, 0, 1] = active[0, 3, 2] = active[0, 2, 2] = 1
    layout = SiteLayout.from_mask(active)
    x, weight, bias = torch.randn(3, 2, dtype=D), torch.randn(5, 2, 2, 2, dtype=D), torch.randn(5, dtype=D)
    ln = (torch.randn(2, dtype=D), torch.randn(2, dtype=D))
    normed = layout.to_dense(F.layer_norm(x, (2,), *ln, eps=1e-6)).permute(0, 3, 1, 2)
    coarse = layout.coarsen(2)[0]
    assert coarse.coordinates.tolist() == [[0, 0, 0], [0, 1, 1]]
    want = coarse.from_dense(F.conv2d(normed, weight, bias, stride=2).permute(0, 2, 3, 1))
    got = cf.ops.patch_conv(x, weight, bias, norm_before=ln, layout=layout)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
