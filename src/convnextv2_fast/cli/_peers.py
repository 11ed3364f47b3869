"""The same weights in timm, transformers, ONNX Runtime and OpenVINO, where they are installed."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import checkpoints, dispatch
from ..models.convnextv2 import SIZES

MODULES = ("timm", "transformers")  # models of PyTorch
RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}  # inference on a CPU
NAMES = (*MODULES, *RUNTIMES)
_PACKAGES = {
    "timm": ("timm",),
    "transformers": ("transformers.models.convnextv2.modeling_convnextv2",),
    "onnxruntime": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
}
PRECISIONS = {"onnxruntime": (torch.float32,), "openvino": (torch.float32, torch.bfloat16)}


def load(peer: str) -> None:
    """Imports what a peer takes; the exception of the package that is missing or broken."""
    for package in _PACKAGES[peer]:
        importlib.import_module(package)


class Logits(nn.Module):
    """Takes the logits out of transformers' output object."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits


def timm_model(size: str, state: Mapping[str, Tensor]) -> nn.Module:
    """timm's convnextv2 with the weights of ours."""
    timm = importlib.import_module("timm")
    model = timm.create_model(f"convnextv2_{size}", pretrained=False, num_classes=state["head.bias"].shape[0])
    model.load_state_dict(checkpoints.convert_state_dict(dict(state), source="upstream", target="timm"))
    return model


def transformers_config(size: str, classes: int) -> Any:
    """transformers' configuration; its final LayerNorm has another eps by default, ours is upstream's."""
    from transformers import ConvNextV2Config

    depths, dims = SIZES[size]
    options: dict[str, Any] = dict(num_labels=classes, layer_norm_eps=1e-6)
    return ConvNextV2Config(depths=list(depths), hidden_sizes=list(dims), **options)


def transformers_model(size: str, state: Mapping[str, Tensor]) -> nn.Module:
    """transformers' ConvNextV2ForImageClassification with the weights of ours, returning logits."""
    from transformers import ConvNextV2ForImageClassification

    model = ConvNextV2ForImageClassification(transformers_config(size, state["head.bias"].shape[0]))
    model.load_state_dict(checkpoints.convert_state_dict(dict(state), source="upstream", target="transformers"))
    return Logits(model)


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Exporters speak of their progress on stdout, of functions they do not know by a logger, of torch by warnings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def onnx_model(model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
    """A float32 model in ONNX Runtime on the CPU, on as many threads as torch has."""
    import onnxruntime

    buffer = io.BytesIO()
    with dispatch.use_backend("torch"), _quiet_exporter():
        exported: Any = torch.onnx.export(model, (example,), dynamo=True)
        exported.save(buffer)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def openvino_model(model: nn.Module, example: Tensor, dtype: torch.dtype = torch.float32) -> Callable[[Tensor], Tensor]:
    """A float32 model in OpenVINO on the CPU, computed in float32 or, where the CPU has it, bfloat16; on as many
    threads as torch has."""
    import openvino

    with dispatch.use_backend("torch"), _quiet_exporter():
        converted = openvino.convert_model(torch.export.export(model, (example,)))
    hint = {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype]
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": hint}
    compiled = openvino.Core().compile_model(converted, "CPU", options)
    return lambda x: torch.from_numpy(compiled(x.numpy())[0])
