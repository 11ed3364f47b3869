"""The op mlp_grn against independent formulas. It is the entry to the tests of the op; the others are:

* `test_all_ops.py -k mlp_grn`: every backend, dtype and layout against float64; `test_errors.py`;
* `tests/native/test_mlp_grn_native.py`: the CPU kernels for every instruction set;
* `tests/cuda_emulation/emulated/test_ops.py`: the CUDA kernels; `tests/test_cuda.py`: on a GPU;
* `tests/triton/interpreted -k mlp_grn`: the Triton kernels.
"""

import pytest
import torch
import torch.nn.functional as F

import convnextv2_fast as cf
from convnextv2_fast.testing import make

from .test_grn import upstream_grn

D = torch.float64
C, K = 12, 48


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


def plain(u, w1, b1, gamma, beta, w2, b2, residual, layer_scale):
    a = F.gelu(F.linear(u, w1.flatten(1), b1))
    if gamma is not None:
        norm = a.norm(dim=(1, 2), keepdim=True)
        a = gamma * (a * norm / (norm.mean(-1, keepdim=True) + 1e-6)) + beta + a
    y = F.linear(a, w2.flatten(1), b2)
    return residual + (y if layer_scale is None else y * layer_scale)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("grn", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("convolutions", [True, False])
def test_forms_of_other_libraries(backend, grn, scaled, convolutions):
    tensors = make("mlp_grn", 2, 5, 3, C).to(torch.float32, False).tensors
    del tensors["row_scale"]
    tensors["layer_scale"] = torch.randn(C) if scaled else None
    if not grn:
        tensors |= {"gamma": None, "beta": None}
    if convolutions:
        tensors |= {name: tensors[name][:, :, None, None] for name in ("w1", "w2")}
    leaves = {k: None if t is None else t.clone().requires_grad_() for k, t in tensors.items()}
    exact = {k: None if t is None else t.double().requires_grad_() for k, t in tensors.items()}
    got = cf.ops.mlp_grn(**leaves, backend=backend)
    want = plain(**exact)
    weight = torch.randn_like(want)
    (got * weight.float()).sum().backward()
    (want * weight).sum().backward()
    with torch.no_grad():
        again = cf.ops.mlp_grn(**leaves, backend=backend)
    for y in (got, again):
        assert (y - want).abs().max() <= 1e-5 * want.abs().max()
    for name, t in leaves.items():
        if t is not None:
            assert t.grad.shape == tensors[name].shape
            assert (t.grad - exact[name].grad).abs().max() <= 1e-5 * exact[name].grad.abs().max(), name


@pytest.mark.parametrize(
    "change, message",
    [
        ({"gamma": None}, "gamma and beta must both be given, or neither"),
        ({"layer_scale": torch.zeros(C + 1)}, r"layer_scale must have C' elements; got w2 \(12, 48\)"),
        ({"w1": torch.zeros(K, C, 3, 3)}, r"wants u .*w1 \(48, 12, 3, 3\)"),
    ],
)
def test_errors(change, message):
    tensors = make("mlp_grn", 1, 2, 2, C).to(torch.float32, False).tensors | change
    with pytest.raises(cf.UnsupportedInputError, match=message):
        cf.ops.mlp_grn(**tensors)
