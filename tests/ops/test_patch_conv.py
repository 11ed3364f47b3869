"""The op patch_conv against independent formulas. It is the entry to the tests of the op; the others are:

* `test_all_ops.py -k patch_conv`: every backend, dtype and layout against float64; `test_errors.py`;
* `tests/native/test_rows_native.py`: the CPU kernels for every instruction set;
* `tests/cuda_emulation/emulated/test_ops.py`: the CUDA kernels; `tests/test_cuda.py`: on a GPU;
* `tests/triton/interpreted -k patch_conv`: the Triton kernels.
* `tests/golden`: results of MinkowskiEngine's own convolution.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convnextv2_fast as cf
from convnextv2_fast.layouts import PatchLayout, SiteLayout

D = torch.float64


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


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_no_images_with_a_weight_of_taps(backend):
    y = cf.ops.patch_conv(torch.zeros(0, 4, 4, 3), torch.randn(4, 3, 5), None, backend=backend)
    assert y.shape == (0, 2, 2, 5)
