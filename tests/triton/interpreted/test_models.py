"""Whole models on interpreted Triton kernels: the dense model, also compiled, and an FCMAE training step."""

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast.testing import gradient_error, randomise

SMALL = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 40]}


@pytest.fixture(scope="module")
def model():
    return randomise(cf.ConvNeXtV2(**SMALL, num_classes=5, drop_path_rate=0.2)).eval()


def both(function):
    """The result on the reference and on Triton."""
    results = []
    for backend in ("torch", "triton"):
        with cf.use_backend(backend):
            results.append(function())
    return results


def test_dense_model(model):
    want, got = both(lambda: model(torch.ones(2, 3, 64, 96)))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_training_step_with_drop_path(model):
    def step():
        torch.manual_seed(0)
        model.train().zero_grad()
        model(torch.randn(2, 3, 32, 64)).square().sum().backward()
        model.eval()
        return {n: p.grad.clone() for n, p in model.named_parameters()}

    want, got = both(step)
    assert gradient_error(got, want) <= 1e-5


def test_compiled_for_any_size(model):
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    with torch.no_grad(), cf.use_backend("triton"):
        for shape in ((2, 3, 32, 32), (3, 3, 32, 64)):
            x = torch.randn(shape)
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-6, atol=1e-6)
    torch._dynamo.reset()


@pytest.mark.parametrize("scope", ["batch", "sample"])
@pytest.mark.parametrize(
    "mask", [[[1.0, 0, 1, 0], [0, 1, 1, 0]], [[1.0, 0, 1, 1], [0, 1, 1, 0]]], ids=["even", "ragged"]
)
def test_fcmae_step(mask, scope):
    mae = cf.fcmae.FCMAE(**SMALL, decoder_embed_dim=16, init="std02", img_size=64, grn_scope=scope)
    images, mask = torch.randn(2, 3, 64, 64), torch.tensor(mask)

    def step():
        mae.zero_grad()
        loss = mae(images, mask=mask)[0]
        loss.backward()
        return loss.detach(), {n: p.grad.clone() for n, p in mae.named_parameters() if p.grad is not None}

    (want, want_grads), (got, grads) = both(step)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    assert set(grads) == set(want_grads) and gradient_error(grads, want_grads) <= 1e-4
