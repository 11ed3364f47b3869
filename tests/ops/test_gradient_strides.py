"""Gradients lie in memory as their parameters do, in dimensions of size 1 too: DistributedDataParallel warns else."""

import copy

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast.testing import make

SIZES = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
ORDERS = {
    "dwconv_layer_norm": ["weight"],  # [C, 1, 7, 7]
    "sparse_dwconv": ["kernel"],
    "grn": ["gamma", "beta"],  # [1, 1, 1, C]
    "mlp_grn": ["gamma", "beta", "w1", "w2"],  # [K, C, 1, 1]
    "patch_conv": ["weight"],  # [Cout, Cin, 2, 2]
    "block": ["weight", "gamma", "beta", "w1", "w2"],
}
CHANNELS = 8


def channels_last(p: torch.Tensor) -> torch.Tensor:
    """A parameter as `model.to(memory_format=torch.channels_last)` leaves it."""
    return p.detach().clone().to(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("op", ORDERS)
def test_ops(op, backend):
    problem = make(op, 2, 6, 6, CHANNELS, "rows" if op == "sparse_dwconv" else "dense").to(torch.float32)
    for name in ORDERS[op]:
        p = problem.tensors[name]
        if name in ("w1", "w2"):
            p = p[:, :, None, None]
        elif p.ndim == 2:  # MinkowskiEngine's form
            p = p.t().reshape(-1, 1, 7, 7)
        problem.tensors[name] = channels_last(p)
    problem.public(backend=backend).square().sum().backward()
    for name in ORDERS[op]:
        p = problem.tensors[name]
        assert p.grad.stride() == p.stride(), name


def models():
    yield "own", cf.ConvNeXtV2(num_classes=3, **SIZES)
    sparse = dict(depths=[1, 1, 1, 1], dims=[8, 16, 24, 32])
    yield "fcmae", cf.fcmae.FCMAE(img_size=64, decoder_depth=1, decoder_embed_dim=8, patch_size=32, **sparse)


@pytest.mark.parametrize(("name", "model"), list(models()), ids=lambda v: v if isinstance(v, str) else "")
def test_models(name, model):
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    y = model(torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last))
    (y[0] if isinstance(y, tuple) else y).square().sum().backward()
    odd = [n for n, p in model.named_parameters() if p.grad is not None and p.grad.stride() != p.stride()]
    assert not odd
