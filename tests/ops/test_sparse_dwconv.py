"""The op sparse_dwconv against independent formulas. It is the entry to the tests of the op; the others are:

* `test_all_ops.py -k sparse_dwconv`: every backend, dtype and layout against float64; `test_errors.py`;
* `tests/native/test_dwconv_native.py`: the CPU kernels for every instruction set;
* `tests/cuda_emulation/emulated/test_dwconv*.py`: the CUDA kernels; `tests/test_cuda.py`: on a GPU;
* `tests/triton/interpreted -k sparse_dwconv`: the Triton kernels.
* `tests/golden`: results of MinkowskiEngine's own convolution.
"""

import pytest
import torch
import torch.nn.functional as F

import convnextv2_fast as cf
from convnextv2_fast.testing import layout_for

D = torch.float64


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
