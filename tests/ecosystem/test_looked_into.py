"""What looks into a model sees plain PyTorch: torch.jit.trace, FLOP counters, make_fx, fake tensors, the meta device,
forward mode and torch.func. Each gives what it gives on the model in plain PyTorch, without being asked to."""

import io
import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call, stack_module_state
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import convnextv2_fast as cf
from tests.ecosystem.subjects import NAMES, build, close, images


@pytest.mark.parametrize(("name", "grad"), [(name, False) for name in NAMES] + [("ours", True)])
def test_traced_for_any_size(name, grad):
    model, file = build(name), io.BytesIO()
    with torch.set_grad_enabled(grad), warnings.catch_warnings():
        if name != "transformers":  # its own code compares sizes
            warnings.simplefilter("error", torch.jit.TracerWarning)
        torch.jit.save(torch.jit.trace(model, images()), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    with torch.no_grad():
        for x in (images(), images(3, 96), torch.randn(1, 3, 70, 45)):
            close(loaded(x), model(x), 1e-4)


def test_a_traced_model_trains():
    """With drop path, whose draws are recorded as draws, for any number of samples."""
    model = cf.ConvNeXtV2(num_classes=5, depths=[1, 1, 1, 1], dims=[8, 8, 8, 8], drop_path_rate=0.5).train()
    traced = torch.jit.trace(model, images(), check_trace=False)
    x = images(4)
    for call in (traced, model):
        torch.manual_seed(0)
        call(x).square().sum().backward()
        got = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        want = got if call is traced else want  # noqa: F821
    for ours, plain in zip(got, want, strict=True):
        close(ours, plain, 1e-3)


def test_tracing_refuses_a_kernel_by_name():
    x, p = torch.randn(1, 4, 4, 8), torch.randn(8)
    with pytest.raises(cf.UnsupportedInputError, match=r"grn: backend 'cpu' cannot run: torch\.jit\.trace"):
        torch.jit.trace(lambda x: cf.ops.grn(x, p, p, backend="cpu"), x)
    with cf.use_backend("cpu"), pytest.raises(cf.UnsupportedInputError, match=r"backend 'cpu' cannot run"):
        torch.jit.trace(build("ours"), images())


@pytest.mark.parametrize("name", NAMES)
def test_counted_operations(name):
    model, x = build(name), images()
    counts = []
    for backend in ("auto", "torch"):
        for grad in (False, True):
            with cf.use_backend(backend), torch.set_grad_enabled(grad), FlopCounterMode(display=False) as counter:
                model(x)
            counts.append(counter.get_total_flops())
    assert counts[0] > 0 and len(set(counts)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_without_data(name):
    model, x = build(name), images()
    with torch.no_grad():
        want = model(x).shape
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    for grad in (True, False):
        with torch.set_grad_enabled(grad), mode:
            assert model(torch.empty(x.shape)).shape == want
    with torch.no_grad():
        assert model(x).shape == want and model(x).isfinite().all()  # nothing fake was kept
    meta = model.to("meta")
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert meta(x.to("meta")).shape == want
    meta(x.to("meta")).sum().backward()


def test_fcmae_without_data():
    with torch.device("meta"):
        model = cf.fcmae.FCMAE(depths=[1, 1, 1, 1], dims=[8, 8, 8, 8], decoder_embed_dim=8)
    loss, pred, mask = model(torch.empty(2, 3, 64, 96, device="meta"))
    assert loss.shape == () and pred.shape == (2, 3072, 2, 3) and mask.shape == (2, 6)
    loss.backward()


@pytest.mark.parametrize("name", NAMES)
def test_make_fx(name):
    model, x = build(name), images()
    with torch.no_grad():
        graph = make_fx(model)(x)
        assert not any("convnextv2_fast" in str(node.target) for node in graph.graph.nodes)
        close(graph(x), model(x), 1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_of_models(name):
    model, x, v = build(name), images(1), images(1).flip(2)
    model.requires_grad_(False)
    got, want = [], []
    for backend, found in (("auto", got), ("torch", want)):
        with cf.use_backend(backend):
            found += torch.autograd.functional.jvp(model, x, v)[1:]
            found.append(torch.autograd.functional.hvp(lambda z: model(z).square().sum(), x, v)[1])
            with torch.no_grad(), forward_ad.dual_level():
                found.append(forward_ad.unpack_dual(model(forward_ad.make_dual(x, v))).tangent)
    for ours, plain in zip(got, want, strict=True):
        close(ours, plain, 2e-3)
    close(got[0], got[2], 1e-3)  # the same derivative, taken twice backward or once forward


def test_forward_mode_of_a_compiled_model():
    model, x, v = build("ours"), images(1), images(1).flip(2)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(x)  # on kernels
        with forward_ad.dual_level():
            got, want = (forward_ad.unpack_dual(m(forward_ad.make_dual(x, v))).tangent for m in (compiled, model))
    close(got, want, 1e-4)


def test_traces_of_fcmae_are_refused():
    model = cf.fcmae.FCMAE(depths=[1, 1, 1, 1], dims=[8, 8, 8, 8], decoder_embed_dim=8)
    with pytest.raises(cf.UnsupportedInputError, match=r"FCMAE: torch\.fx and torch\.jit\.trace cannot"):
        torch.jit.trace(model, images())


def test_an_ensemble_in_one_call():
    models = [build("ours") for _ in range(3)]
    for i, model in enumerate(models):
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1 + 0.1 * i)
    params, buffers = stack_module_state(models)
    x = images()
    with torch.no_grad():
        got = torch.vmap(lambda p, b: functional_call(models[0], (p, b), (x,)))(params, buffers)
        for one, model in zip(got, models, strict=True):
            close(one, model(x), 1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_with_weights_in_channels_last(name):
    """Whose gradients are given their strides by a function that nothing of the kind can look into."""
    model, x = build(name).to(memory_format=torch.channels_last), images()
    close(torch.jit.trace(model, x, check_trace=False)(images(3)), model(images(3)), 1e-4)
    params = {k: p.detach().requires_grad_() for k, p in model.named_parameters()}
    got = torch.func.grad(lambda p: functional_call(model, p, (x,)).square().sum())(params)
    model(x).square().sum().backward()
    for k, p in model.named_parameters():
        close(got[k], p.grad, 1e-4)
    with forward_ad.dual_level():
        assert forward_ad.unpack_dual(model(forward_ad.make_dual(x, x))).tangent is not None
