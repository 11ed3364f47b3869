"""torch.compile, torch.export, AOTInductor, ONNX: whole models, against themselves in eager mode."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convnextv2_fast as cf
from tests.ecosystem.subjects import NAMES, build, close, images
from tests.inductor import needs_inductor


@needs_inductor
@pytest.mark.parametrize("name", NAMES)
def test_compiled_inference(name):
    model, x = build(name), images()
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        close(compiled(x), model(x))


@needs_inductor
@pytest.mark.parametrize("name", NAMES)
def test_compiled_training(name):
    model = build(name).train()
    compiled, x, labels = torch.compile(model, fullgraph=True), images(), torch.tensor([0, 3])
    grads = []
    for call in (model, compiled):
        model.zero_grad()
        F.cross_entropy(call(x), labels).backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for got, want in zip(grads[1], grads[0], strict=True):
        close(got, want, 1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_exported_for_any_batch(name):
    model, x = build(name), images()
    with torch.no_grad():
        program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=1, max=64)},))
        assert any("convnextv2_fast" in str(node.target) for node in program.graph.nodes)
        for n in (2, 5):
            close(program.module()(images(n)), model(images(n)))


@pytest.mark.parametrize(("name", "backend"), [("ours", "auto"), ("timm", "auto"), ("ours", "torch")])
def test_exported_for_any_size(name, backend):
    """With gradients enabled, as is the default: export runs autograd's forward under fake tensors."""
    model, dim = build(name), torch.export.Dim
    free = {0: dim("n", min=1, max=64), 2: dim("h", min=64, max=1024), 3: dim("w", min=64, max=1024)}
    with cf.use_backend(backend):
        program = torch.export.export(model, (images(),), dynamic_shapes=(free,))
    with torch.no_grad():
        for x in (images(3, 96), torch.randn(1, 3, 100, 75)):
            close(program.module()(x), model(x), 1e-4)


def _first_stages(name):
    """Stem, a stage, a downsampling layer: whole models take a minute to compile."""
    model = build(name)
    if name == "ours":
        return nn.Sequential(model.downsample_layers[0], model.stages[0], model.downsample_layers[1])
    return nn.Sequential(model.stem, model.stages[0], model.stages[1].downsample)


@pytest.mark.parametrize("name", ["ours", "timm"])
def test_compiled_training_of_any_size(name):
    """`dynamic=True`, where sizes and the numbers that modules hold are symbols."""
    model = _first_stages(name).train()
    compiled = torch.compile(model, backend="aot_eager", dynamic=True, fullgraph=True)
    for x in (images(4), images(3, 96)):
        grads = []
        for call in (model, compiled):
            model.zero_grad()
            call(x).square().sum().backward()
            grads.append([p.grad.clone() for p in model.parameters()])
        for got, want in zip(*grads, strict=True):
            close(got, want, 1e-3)


@needs_inductor
@pytest.mark.parametrize("name", ["ours", "timm"])
def test_compiled_ahead_of_time(name, tmp_path):
    model, x = build(name), images()
    with torch.no_grad():
        package = torch._inductor.aoti_compile_and_package(
            torch.export.export(model, (x,)), package_path=str(tmp_path / "model.pt2")
        )
        close(torch._inductor.aoti_load_package(package)(x), model(x))


@pytest.mark.parametrize("name", NAMES)
def test_onnx(name, tmp_path):
    """Through the reference: ONNX knows no operator of ours."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, x, path = build(name), images(), str(tmp_path / "model.onnx")
    dynamic = ({0: torch.export.Dim("n", min=1, max=64)},)
    with torch.no_grad(), cf.use_backend("torch"):
        torch.onnx.export(model, (x,), path, dynamo=True, dynamic_shapes=dynamic, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for n in (2, 5):
        (got,) = session.run(None, {session.get_inputs()[0].name: np.asarray(images(n))})
        with torch.no_grad():
            close(torch.from_numpy(got), model(images(n)), 1e-4)
