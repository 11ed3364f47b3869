"""The op grn against independent formulas. It is the entry to the tests of the op; the others are:

* `test_all_ops.py -k grn`: every backend, dtype and layout against float64; `test_errors.py`;
* `tests/native/test_rows_native.py`: the CPU kernels for every instruction set;
* `tests/cuda_emulation/emulated/test_grn.py`: the CUDA kernels; `tests/test_cuda.py`: on a GPU;
* `tests/triton/interpreted -k grn`: the Triton kernels.
* `tests/golden`: results of MinkowskiEngine's own modules.
"""

import torch

import convnextv2_fast as cf
from convnextv2_fast.testing import make

D = torch.float64


def upstream_grn(x, gamma, beta):
    gx = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
    return gamma * (x * (gx / (gx.mean(dim=-1, keepdim=True) + 1e-6))) + beta + x


def test_grn():
    p = make("grn", 3, 5, 4, 12)
    t = p.tensors
    torch.testing.assert_close(p.reference(), upstream_grn(t["x"], t["gamma"], t["beta"]), rtol=1e-12, atol=1e-12)


def test_grn_has_zero_subgradient_at_zero_norm():
    x = torch.zeros(2, 3, 3, 4, requires_grad=True)
    ones = torch.ones(4)
    for rows in (None, torch.tensor([9, 9])):
        x.grad = None
        y = cf.ops.grn(x if rows is None else x.view(-1, 4), ones, ones, rows_per_group=rows)
        y.sum().backward()
        assert torch.equal(x.grad, torch.ones_like(x))
