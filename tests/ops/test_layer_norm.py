"""The op layer_norm against independent formulas. It is the entry to the tests of the op; the others are:

* `test_all_ops.py -k layer_norm`: every backend, dtype and layout against float64; `test_errors.py`;
* `tests/native/test_rows_native.py`: the CPU kernels for every instruction set;
* `tests/cuda_emulation/emulated/test_norms.py`: the CUDA kernels; `tests/test_cuda.py`: on a GPU;
* `tests/triton/interpreted -k layer_norm`: the Triton kernels.
"""

import torch
from torch import nn

import convnextv2_fast as cf

D = torch.float64


def test_layer_norm_channels_first_is_upstreams_formula():
    norm = cf.utils.LayerNorm(6, data_format="channels_first").double()
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 5, 3, dtype=D)
    u = x.mean(1, keepdim=True)
    s = (x - u).pow(2).mean(1, keepdim=True)
    want = norm.weight[:, None, None] * ((x - u) / torch.sqrt(s + 1e-6)) + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), want, rtol=1e-12, atol=1e-12)
