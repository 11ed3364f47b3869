"""On a CUDA device: accelerated timm and transformers models, and the serving examples. Against float64 on the CPU."""

import copy

import pytest
import torch
import torch.nn.functional as F

import convnextv2_fast as cf
from tests.ecosystem.subjects import NAMES, build, images
from tests.examples.test_serving import latency, throughput

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
LABELS = torch.tensor([0, 3])


def subject(name):
    """The model, or a skip where the library is not installed."""
    try:
        return build(name)
    except ImportError as error:
        pytest.skip(str(error))


def exact(model):
    """Logits and gradients in float64, on the CPU, on the reference."""
    model = copy.deepcopy(model).double()
    with cf.use_backend("torch"):
        logits = model(images().double())
        F.cross_entropy(logits, LABELS).backward()
    return logits.detach(), [p.grad for p in model.parameters()]


def error(got, want):
    return ((got.detach().cpu().double() - want).norm() / want.norm().clamp_min(1e-30)).item()


@pytest.mark.parametrize("form", ["eager", "compiled", "autocast"])
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients(name, form):
    model = subject(name)
    logits, grads = exact(model)
    model = model.cuda()
    call = torch.compile(model, fullgraph=True) if form == "compiled" else model
    with torch.autocast("cuda", torch.bfloat16, enabled=form == "autocast"):
        y = call(images().cuda())
        F.cross_entropy(y, LABELS.cuda()).backward()
    limit = 5e-2 if form == "autocast" else 1e-4
    assert error(y, logits) <= limit
    for p, want in zip(model.parameters(), grads, strict=True):
        assert p.grad.is_cuda and error(p.grad, want) <= limit + 1e-6 / want.norm().clamp_min(1e-6).item()
    torch._dynamo.reset()


@pytest.mark.parametrize("name", NAMES)
def test_one_image_as_a_graph(name):
    model = subject(name).cuda()
    inputs = [images(1).cuda(), images(3)[2:].cuda()]
    with torch.no_grad():
        want = [model(x) for x in inputs]
    cf.freeze(getattr(model, "model", model))
    classify = latency.OneImage(model, inputs[0])
    for x, w in zip(inputs, want, strict=True):
        torch.testing.assert_close(classify(x), w, rtol=1e-4, atol=1e-5)


def test_batches_of_requests():
    model = subject("ours")
    pictures = torch.randint(0, 256, (11, 3, 64, 64), dtype=torch.uint8)
    with throughput.Batcher(model, 64, 4) as batcher:
        want = [batcher.submit(picture).result(timeout=60) for picture in pictures]
    with throughput.Batcher(model.cuda(), 64, 4) as batcher:
        futures = [batcher.submit(picture) for picture in pictures]
        got = [future.result(timeout=60) for future in futures]
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
