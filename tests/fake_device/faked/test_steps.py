"""Inference, training steps and FCMAE steps from end to end: between the operators nothing is read from the device,
which a CUDA graph could not hold, and every tensor stays on it. Operators run their fakes. The fixture `called` says
how."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import DataDependentOutputException

import convnextv2_fast as cf
from tests.ecosystem.subjects import NAMES, SMALL, build

MODELS = {name: build(name) for name in NAMES}  # with values: building a model reads some, as drop path's rates
MAE = {
    scope: cf.fcmae.FCMAE(decoder_embed_dim=32, init="std02", img_size=64, grn_scope=scope, **SMALL)
    for scope in ("sample", "batch")
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 1e-2, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 1e-3, capturable=True),
}


def on_gpu(model, dtype=torch.float32):
    """The model with new parameters on the device, which have no values."""

    def fake(t):
        kind = dtype if t.is_floating_point() else t.dtype
        return torch.empty_strided(t.shape, t.stride(), dtype=kind, device="cuda")

    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            setattr(module, name, torch.nn.Parameter(fake(p)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, fake(buffer))
    return model


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(*shape, dtype=dtype, device="cuda")


def expect(called, backend, ops):
    """Each of these ran, all on the backend. Of `cuda` a block is one operator, as is a convolution and its norm."""
    assert called
    if backend == "cuda":
        ops = ["block_cuda", *(op for op in ops if op not in ("dwconv", "layer_norm", "mlp_grn"))]
        assert not any("mlp_grn" in name for name in called)
    assert {name.startswith("triton_") for name in called} == {backend == "triton"}
    for op in ops:
        assert any(op in name for name in called), f"{op}: {sorted(called)}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_inference(name, dtype, called, backend):
    model = on_gpu(MODELS[name].eval(), dtype)
    with torch.no_grad():
        y = model(zeros(2, 3, 96, 64, dtype=dtype))
    assert y.is_cuda and y.dtype == dtype and y.shape == (2, 5)
    expect(called, backend, ["dwconv", "layer_norm", "patch_conv"] + ["mlp_grn"] * (name != "v1"))


@pytest.mark.parametrize(
    ("autocast", "optimizer"),
    [(None, "sgd"), (None, "adamw"), (torch.bfloat16, "adamw"), (torch.float16, "sgd")],
    ids=["sgd", "adamw", "bfloat16-adamw", "float16-sgd"],
)
@pytest.mark.parametrize("name", NAMES)
def test_training_step(name, autocast, optimizer, called, backend):
    model = on_gpu(MODELS[name].train())
    step = OPTIMIZERS[optimizer](model.parameters())
    for _ in range(2):  # state is made in the first
        step.zero_grad(set_to_none=False)
        with torch.autocast("cuda", autocast or torch.bfloat16, enabled=autocast is not None):
            loss = F.cross_entropy(model(zeros(4, 3, 64, 64)), zeros(4, dtype=torch.int64))
        loss.backward()
        step.step()
    for key, p in model.named_parameters():
        assert p.grad.is_cuda and p.grad.dtype == torch.float32 and p.grad.shape == p.shape, key
    expect(called, backend, ["dwconv", "layer_norm", "patch_conv"] + ["mlp_grn"] * (name != "v1"))


def fcmae_step(scope, **options):
    model = on_gpu(MAE[scope].train())
    step = OPTIMIZERS["adamw"](model.parameters())
    for _ in range(2):
        step.zero_grad(set_to_none=False)
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(zeros(4, 3, 64, 64), full_pred=False, **options)[0]
        loss.backward()
        step.step()
    return model


@pytest.mark.parametrize("scope", MAE)
def test_fcmae_step(scope, called, backend):
    model = fcmae_step(scope, mask=zeros(4, 4), kept=2)
    assert all(p.grad.is_cuda for p in model.parameters())
    expect(called, backend, ("dwconv", "mlp_grn", "layer_norm", "patch_conv"))


def test_reading_is_noticed(called):
    """How many patches are kept is unknown here, so the mask is read back."""
    with pytest.raises(DataDependentOutputException):
        fcmae_step("sample", mask=zeros(4, 4))
    assert not called
