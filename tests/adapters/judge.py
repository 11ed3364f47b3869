"""How accelerated models are compared with themselves as they were."""

import copy

import torch

import convnextv2_fast as cf


def both(model):
    """A model as it is, and an accelerated copy of it."""
    fast = copy.deepcopy(model)
    report = cf.accelerate(fast)
    assert report.replaced
    return model, fast, report


def assert_equal_outputs(plain, fast, x, take=lambda y: y, *, gradients=True, rtol=2e-5):
    """Outputs, gradients of the images and of every parameter, against the model as it was in float64.

    At most `rtol` of the largest value: the rounding of float32 over a small model."""
    exact_model = copy.deepcopy(plain).double()
    images, exact_images = x.clone().requires_grad_(), x.double().requires_grad_()
    with torch.no_grad():
        close(take(fast(x)), take(exact_model(x.double())), rtol, "inference")
    got, want = take(fast(images)), take(exact_model(exact_images))
    close(got, want, rtol, "output")
    if gradients:
        weight = torch.randn_like(want)
        (got * weight.float()).sum().backward()
        (want * weight).sum().backward()
        close(images.grad, exact_images.grad, rtol, "images")
        wanted = dict(exact_model.named_parameters())
        for name, p in fast.named_parameters():
            assert (p.grad is None) == (wanted[name].grad is None), name
            if p.grad is not None:
                close(p.grad, wanted[name].grad, rtol, name)
        fast.zero_grad(set_to_none=True)


def close(got, want, rtol, what):
    assert got.shape == want.shape, what
    error = (got.double() - want.double()).abs().max()
    assert error <= rtol * want.double().abs().max() + 1e-12, f"{what}: {error:.1e} of {want.abs().max():.1e}"
