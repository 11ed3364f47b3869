"""A float32 model in ONNX Runtime and in OpenVINO on the CPU, each in its best form, on as many threads as torch has.

Both functions take the model as a function that makes it, and a folder or None. In the folder they keep the exported
model: the next process with the same folder loads it, and does not make or export the model again.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import dispatch
from .peers import load

Make = Callable[[], nn.Module]
# What the rows say of the settings.
ONNX_SETTINGS = "all graph optimisations"
OPENVINO_SETTINGS = "PERFORMANCE_HINT=LATENCY"  # as fast as THROUGHPUT or faster, since one call runs at a time


@contextlib.contextmanager
def _exporting() -> Iterator[None]:
    """The torch backend, whose operators exporters know. They speak of their progress on stdout, of functions they do
    not know by a logger, of torch by warnings: all silenced."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with dispatch.use_backend("torch"), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _folder(shared: Path | None) -> Iterator[Path]:
    """The folder for exported models, or one that is gone after the block: sessions hold what they loaded."""
    if shared is not None:
        yield shared
        return
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def onnx_model(make: Make, example: Tensor, shared: Path | None = None) -> Callable[[Tensor], Tensor]:
    """The model in ONNX Runtime, with all its graph optimisations; `example` has the shape of its images."""
    onnxruntime = load("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    with _folder(shared) as path:
        file = path / "model.onnx"
        if not file.exists():
            with _exporting():
                exported: Any = torch.onnx.export(make(), (example,), dynamo=True)
                exported.save(file, external_data=True)  # one file alone cannot pass 2 GiB
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def openvino_model(
    make: Make, example: Tensor, dtype: torch.dtype = torch.float32, shared: Path | None = None
) -> Callable[[Tensor], Tensor]:
    """The model in OpenVINO, computed in float32 or, where the CPU has it, bfloat16."""
    openvino = load("openvino")
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype],
    }
    with _folder(shared) as path:
        file = path / "model.xml"
        if not file.exists():
            with _exporting():
                converted = openvino.convert_model(torch.export.export(make(), (example,)))
            openvino.save_model(converted, file, compress_to_fp16=False)
        compiled = openvino.Core().compile_model(file, "CPU", options)
    return lambda x: torch.from_numpy(compiled(x.numpy())[0])
