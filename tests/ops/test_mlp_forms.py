"""mlp_grn in the forms that other libraries' blocks take: no GRN, layer scale, weights of 1x1 convolutions."""

import pytest
import torch
import torch.nn.functional as F

import convnextv2_fast as cf
from convnextv2_fast.testing import make

C, K = 12, 48


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
def test_equals_plain_pytorch(backend, grn, scaled, convolutions):
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
