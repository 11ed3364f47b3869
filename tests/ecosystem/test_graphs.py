"""torch.compile, torch.export, AOTInductor, ONNX: whole models, against themselves in eager mode."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

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
