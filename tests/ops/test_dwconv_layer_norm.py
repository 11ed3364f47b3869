"""The op dwconv_layer_norm against independent formulas. It is the entry to the tests of the op; the others are:

* `test_all_ops.py -k dwconv_layer_norm`: every backend, dtype and layout against float64; `test_errors.py`;
* `tests/native/test_dwconv_native.py`: the CPU kernels for every instruction set;
* `tests/cuda_emulation/emulated/test_dwconv*.py`: the CUDA kernels; `tests/test_cuda.py`: on a GPU;
* `tests/triton/interpreted -k dwconv_layer_norm`: the Triton kernels.
"""

import torch
import torch.nn.functional as F

import convnextv2_fast as cf
from convnextv2_fast.layouts import DenseLayout
from convnextv2_fast.testing import make

D = torch.float64


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


def test_float64_stays_float64_beside_a_float32_vector():
    p = make("dwconv_layer_norm", 2, 5, 4, 6)
    want = p.public()
    p.tensors["ln_weight"] = p.tensors["ln_weight"].float()
    exact = p.public()
    p.tensors["ln_weight"] = p.tensors["ln_weight"].double()
    torch.testing.assert_close(exact, p.public(), rtol=1e-14, atol=1e-14)
    assert not torch.equal(exact, want)
