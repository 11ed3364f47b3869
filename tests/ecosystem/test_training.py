"""autocast, GradScaler, gradient checkpointing, functional_call: whole models on the CPU."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

import convnextv2_fast as cf
from tests.ecosystem.subjects import NAMES, build, close, images

LABELS = torch.tensor([0, 3])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_autocast(name, dtype):
    """Parameters and gradients stay float32, the logits are the autocast dtype's, the error at most twice eager's."""
    model, x = build(name).train(), images()
    exact = copy.deepcopy(model).double()
    cf.restore(exact)
    want = exact(x.double())
    F.cross_entropy(want, LABELS).backward()
    errors = {}
    plain = copy.deepcopy(model)
    cf.restore(plain)
    for label, m, backend in (("fast", model, "auto"), ("plain", plain, "torch")):
        with cf.use_backend(backend), torch.autocast("cpu", dtype=dtype):
            y = m(x)
            loss = F.cross_entropy(y, LABELS)
        loss.backward()
        assert y.dtype == dtype
        assert all(p.grad.dtype == p.dtype == torch.float32 for p in m.parameters())
        pairs = zip(m.parameters(), exact.parameters(), strict=True)
        grads = [(p.grad - q.grad).norm() / q.grad.norm() for p, q in pairs]
        errors[label] = ((y - want).abs().max() / want.abs().max()).item(), torch.stack(grads).mean().item()
    for fast, ref in zip(errors["fast"], errors["plain"], strict=True):
        assert fast <= 2 * ref + 4 * torch.finfo(dtype).eps, errors


@pytest.mark.parametrize("name", NAMES)
def test_grad_scaler(name):
    """float16 with a scaler: finite steps, the loss falls, and a scale that overflows skips the step."""
    model = build(name).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=3)
    x, losses, skipped = images(), [], 0
    for _ in range(40):
        with torch.autocast("cpu", dtype=torch.float16):
            loss = F.cross_entropy(model(x).float(), LABELS)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        before = scaler.get_scale()
        scaler.update()
        skipped += scaler.get_scale() < before
        losses.append(loss.item())
    assert 0 < skipped < 30 and losses[-1] < 0.7 * losses[0]
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_checkpointed_as_a_whole(name, reentrant):
    """The recomputed forward draws drop path's factors again."""
    model, x = build(name).train(), images().requires_grad_()
    grads = []
    for call in (model, functools.partial(checkpoint, model, use_reentrant=reentrant)):
        model.zero_grad()
        call(x).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_functional_call(name):
    """With other parameters, with gradients to them, and leaving the model's own alone."""
    model, x = build(name), images()
    params = {k: (1.3 * p.detach()).requires_grad_() for k, p in model.named_parameters()}
    y = functional_call(model, params, (x,))
    grads = torch.autograd.grad(y.square().sum(), list(params.values()))
    other = copy.deepcopy(model)
    other.load_state_dict(params)
    want = other(x)
    want.square().sum().backward()
    close(y, want)
    for got, p in zip(grads, other.parameters(), strict=True):
        close(got, p.grad, 1e-4)
    with torch.no_grad():  # kept packed weights are those of the tensors in use
        close(functional_call(model, params, (x,)), want)
        assert not torch.equal(model(x), want)


@pytest.mark.parametrize("name", NAMES)
def test_function_transforms(name):
    """torch.func.grad differentiates plain PyTorch, and finds what backward finds."""
    model, x = build(name), images()
    params = {k: p.detach() for k, p in model.named_parameters()}

    def loss(params):
        return functional_call(model, params, (x,)).square().sum()

    got = torch.func.grad(loss)(params)
    model.zero_grad()
    model(x).square().sum().backward()
    for k, p in model.named_parameters():
        close(got[k], p.grad, 1e-4)
