"""What CUDA graphs of inference and training steps hold, from end to end: nothing is read from the device."""

import contextlib
import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from timm.utils import ModelEmaV3
from torch._subclasses.fake_tensor import DataDependentOutputException

import convnextv2_fast as cf
from convnextv2_fast import graphs
from convnextv2_fast.graphs import capture, watch
from convnextv2_fast.graphs.calls import Call
from convnextv2_fast.graphs.optimizers import _FORMS

from .test_steps import MAE, MODELS, NAMES, expect, on_gpu, zeros

# torch has no fakes of these three, which write into what they are given. On CUDA they take `lr` by its address.
FUSED = torch.library.Library("aten", "IMPL")
for operator in ("_fused_adam_", "_fused_adamw_", "_fused_sgd_"):
    FUSED.impl(f"{operator}.tensor_lr", lambda *_, **__: None, "Meta")


@pytest.fixture(autouse=True)
def fake(monkeypatch, called):
    """Fake tensors have no addresses, and a fake device no streams."""
    monkeypatch.setattr(watch.Watch, "_places", lambda self: [])
    monkeypatch.setattr(capture.Cuda, "why_not", lambda self, device: None)
    monkeypatch.setattr(torch, "Generator", lambda device: SimpleNamespace(manual_seed=id))  # of the moving average


def classify(model, images, labels):
    return F.cross_entropy(model(images).float(), labels)


def pretrain(model, images, mask, kept):
    return model(images, mask=mask, kept=kept, full_pred=False)[0]


def two_steps(step, inputs):
    """As graphs would hold them: the first makes the optimizer's state, the second is what is captured."""
    for _ in range(2):
        step.update.form.fill()
        for first, last in ((True, False), (False, True)):
            loss = step.forward_backward(Call.of(inputs), first, last)
        with step.update.form.entered():
            norm = step.update(average=True)
    assert loss.is_cuda and norm.is_cuda
    assert all(p.grad is not None and p.grad.is_cuda for p in step.model.parameters())
    assert all(t.is_cuda for state in step.optimizer.state.values() for t in state.values())


@pytest.mark.parametrize("called", ["cuda"], indirect=True)
@pytest.mark.parametrize("scaled", [False, True], ids=["", "float16"])
@pytest.mark.parametrize("kind", _FORMS)
def test_every_optimizer_stays_on_the_device(kind, scaled):
    model = on_gpu(MODELS["ours"].train())
    momentum = {"momentum": 0.9} if "momentum" in kind.__init__.__annotations__ else {}
    optimizer = kind(model.parameters(), 1e-3, weight_decay=0.05, **momentum)
    scaler = torch.amp.GradScaler("cuda") if scaled else None
    average = ModelEmaV3(model)
    dtype = torch.float16 if scaled else torch.bfloat16
    step = graphs.TrainingStep(
        model, classify, optimizer, scaler=scaler, ema=average, accumulate=2, clip_grad=1.0, autocast=dtype
    )
    if scaled and "fused" not in _FORMS[kind]:
        assert "overflowed" in step.update.why_not()
        return
    assert step.update.why_not() is None
    two_steps(step, (zeros(4, 3, 64, 64), zeros(4, dtype=torch.int64)))


@pytest.mark.parametrize("name", NAMES)
def test_training_step_of_accelerated_models(name, called, backend):
    model = on_gpu(MODELS[name].train())
    optimizer = torch.optim.AdamW(model.parameters())
    step = graphs.TrainingStep(model, classify, optimizer, ema=ModelEmaV3(model), accumulate=2, clip_grad=1.0)
    two_steps(step, (zeros(4, 3, 64, 64), zeros(4, dtype=torch.int64)))
    expect(called, backend, ["dwconv", "layer_norm", "patch_conv"] + ["mlp_grn"] * (name != "v1"))


@pytest.mark.parametrize("scope", MAE)
def test_fcmae_step(scope, called, backend):
    model = on_gpu(MAE[scope].train())
    step = graphs.TrainingStep(model, pretrain, torch.optim.AdamW(model.parameters()), clip_grad=1.0)
    two_steps(step, (zeros(4, 3, 64, 64), zeros(4, 4), 2))
    expect(called, backend, ("dwconv", "mlp_grn", "layer_norm", "patch_conv"))


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["ours", "timm"])
def test_inference(name, autocast, called, backend):
    model = on_gpu(MODELS[name].eval())
    amp = torch.autocast("cuda", autocast) if autocast else contextlib.nullcontext()
    with amp:
        y = graphs.inference(model)._forward(Call.of((zeros(2, 3, 96, 64),)))
    assert y.is_cuda and not y.requires_grad
    expect(called, backend, ["dwconv", "layer_norm", "patch_conv"] + ["mlp_grn"] * (name != "v1"))


@pytest.mark.parametrize("name", NAMES)
def test_frozen(name, called, backend, monkeypatch):
    monkeypatch.setattr(capture.Cuda, "why_not", lambda self, device: "what is captured is looked at here")
    model = copy.deepcopy(on_gpu(MODELS[name].eval()))
    cf.freeze(getattr(model, "model", model))
    with torch.no_grad():
        y = model(zeros(2, 3, 96, 64))
    assert y.is_cuda and y.shape == (2, 5)
    expect(called, backend, ["dwconv", "layer_norm", "patch_conv"] + ["mlp_grn"] * (name != "v1"))


@pytest.mark.parametrize("called", ["cuda"], indirect=True)
def test_a_step_count_on_the_host_is_noticed():
    """The form makes the difference: without it Adam reads its step count."""
    model = on_gpu(MODELS["ours"].train())
    step = graphs.TrainingStep(model, classify, torch.optim.AdamW(model.parameters()))
    step.forward_backward(Call.of((zeros(4, 3, 64, 64), zeros(4, dtype=torch.int64))), True, True)
    step.update.form.fill()
    with step.update.form.entered():
        step.update(average=False)
    with pytest.raises(DataDependentOutputException):
        step.update(average=False)
