"""Tests of whole models on the backend that the fixture `backend` names: the dense model, also compiled, and an FCMAE
training step. Imported by the folders whose kernels run on the CPU, interpreted or emulated."""

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast.testing import gradient_error, randomise

SMALL = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 40]}


@pytest.fixture(scope="module")
def model():
    return randomise(cf.ConvNeXtV2(**SMALL, num_classes=5, drop_path_rate=0.2)).eval()


def both(function, backend):
    """The result on the reference and on the backend."""
    results = []
    for name in ("torch", backend):
        with cf.use_backend(name):
            results.append(function())
    return results


def test_dense_model(model, backend):
    want, got = both(lambda: model(torch.ones(2, 3, 32, 64)), backend)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_training_step_with_drop_path(model, backend):
    def step():
        torch.manual_seed(0)
        model.train().zero_grad()
        model(torch.randn(2, 3, 32, 64)).square().sum().backward()
        model.eval()
        return {n: p.grad.clone() for n, p in model.named_parameters()}

    want, got = both(step, backend)
    assert gradient_error(got, want) <= 1e-5


def test_compiled_for_any_size(model, backend):
    """One graph for both: batch and width are free."""
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    for shape, stance in (((2, 3, 32, 64), "default"), ((3, 3, 32, 96), "fail_on_recompile")):
        x = torch.randn(shape)
        with torch.no_grad():
            with cf.use_backend("torch"):
                want = model(x)
            with cf.use_backend(backend), torch.compiler.set_stance(stance):
                torch.testing.assert_close(compiled(x), want, rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize("scope", ["batch", "sample"])
@pytest.mark.parametrize(
    "mask", [[[1.0, 0, 1, 0], [0, 1, 1, 0]], [[1.0, 0, 1, 1], [0, 1, 1, 0]]], ids=["even", "ragged"]
)
def test_fcmae_step(mask, scope, backend):
    mae = cf.fcmae.FCMAE(**SMALL, decoder_embed_dim=16, init="std02", img_size=64, grn_scope=scope)
    images, mask = torch.randn(2, 3, 64, 64), torch.tensor(mask)

    def step():
        mae.zero_grad()
        loss = mae(images, mask=mask)[0]
        loss.backward()
        return loss.detach(), {n: p.grad.clone() for n, p in mae.named_parameters() if p.grad is not None}

    (want, want_grads), (got, grads) = both(step, backend)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    assert set(grads) == set(want_grads) and gradient_error(grads, want_grads) <= 1e-4
