"""timm, transformers, ONNX Runtime and OpenVINO, where they are installed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import convnextv2_fast as cf

from .sizes import SIZES


class Unavailable(Exception):
    """This provider has nothing to offer here; the message says why. Reported as a skip, never as a number."""


def installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def need(*packages: str) -> None:
    """Raises Unavailable unless all packages are installed."""
    absent = [package for package in packages if not installed(package)]
    if absent:
        raise Unavailable(f"not installed: {', '.join(absent)}")


def import_torchvision() -> None:
    """Makes torchvision importable (timm and transformers want it) beside a torch it was not built for.

    Its Python side then fails on two operators that its library could not bring along; nothing here calls them, so
    declaring them is enough.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        importlib.import_module("torchvision")


def import_timm() -> Any:
    """timm; Unavailable if it is not installed."""
    need("timm", "torchvision")
    import_torchvision()
    return importlib.import_module("timm")


def timm_model(size: str, state: Mapping[str, Tensor]) -> nn.Module:
    """timm's convnextv2 with our weights."""
    model = import_timm().create_model(f"convnextv2_{size}", num_classes=state["head.bias"].shape[0])
    model.load_state_dict(cf.convert_state_dict(dict(state), target="timm"))
    return model


def timm_block(dim: int, state: Mapping[str, Tensor]) -> nn.Module:
    """timm's block, `[N, C, H, W]`, with the parameters of our dense block."""
    import_timm()
    from timm.models.convnext import ConvNeXtBlock

    block = ConvNeXtBlock(dim, use_grn=True, ls_init_value=None)
    names = {"dwconv": "conv_dw", "norm": "norm", "pwconv1": "mlp.fc1", "pwconv2": "mlp.fc2", "grn": "mlp.grn"}
    leaves = {"gamma": "weight", "beta": "bias"}
    renamed = {}
    for name, value in state.items():
        module, leaf = name.rsplit(".", 1)
        renamed[f"{names[module]}.{leaves.get(leaf, leaf)}"] = value.reshape(-1) if module == "grn" else value
    block.load_state_dict(renamed)
    return block


def timm_op(op: str) -> Callable[..., Tensor]:
    """timm's own form of an op, as a function of the op's arguments; Unavailable where it has none."""
    if op not in ("grn", "mlp_grn"):
        raise Unavailable(f"timm has no {op} of its own")
    import_timm()
    from timm.layers.grn import GlobalResponseNorm
    from timm.layers.mlp import GlobalResponseNormMlp

    if op == "grn":

        def run_grn(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
            return torch.func.functional_call(norm, {"weight": gamma, "bias": beta}, (x,))

        norm = GlobalResponseNorm(1)
        return run_grn

    mlp = GlobalResponseNormMlp(1, 4)
    names = ("fc1.weight", "fc1.bias", "grn.weight", "grn.bias", "fc2.weight", "fc2.bias")

    def run_mlp(u: Tensor, *params: Tensor, residual: Tensor) -> Tensor:
        return torch.func.functional_call(mlp, dict(zip(names, params, strict=True)), (u,)) + residual

    return run_mlp


def transformers_config(size: str, num_classes: int) -> Any:
    """transformers' configuration; its final LayerNorm has another eps by default, ours is upstream's."""
    need("transformers")
    if installed("torchvision"):
        import_torchvision()
    from transformers import ConvNextV2Config

    depths, dims = SIZES[size]
    return ConvNextV2Config(depths=list(depths), hidden_sizes=list(dims), num_labels=num_classes, layer_norm_eps=1e-6)


class Logits(nn.Module):
    """Takes the logits out of transformers' output object."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits


def transformers_model(size: str, state: Mapping[str, Tensor]) -> nn.Module:
    """transformers' ConvNextV2ForImageClassification with our weights, returning logits."""
    config = transformers_config(size, state["head.bias"].shape[0])
    from transformers import ConvNextV2ForImageClassification

    model = ConvNextV2ForImageClassification(config)
    model.load_state_dict(cf.convert_state_dict(dict(state), target="transformers"))
    return Logits(model)


def transformers_block(dim: int, state: Mapping[str, Tensor]) -> nn.Module:
    """transformers' layer with the parameters of our dense block."""
    config = transformers_config("atto", 1)
    from transformers.models.convnextv2.modeling_convnextv2 import ConvNextV2Layer

    block = ConvNextV2Layer(config, dim)
    names = {"norm.": "layernorm.", "grn.gamma": "grn.weight", "grn.beta": "grn.bias"}
    renamed = {}
    for name, value in state.items():
        for ours, theirs in names.items():
            name = theirs + name.removeprefix(ours) if name.startswith(ours) else name
        renamed[name] = value
    block.load_state_dict(renamed)
    return block


def onnx_model(model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
    """The model in ONNX Runtime on the CPU, on as many threads as torch has."""
    need("onnxruntime", "onnx", "onnxscript")
    import onnxruntime

    buffer = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(model, (example,), dynamo=True).save(buffer)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def openvino_model(model: nn.Module, example: Tensor, precision: str = "float32") -> Callable[[Tensor], Tensor]:
    """A float32 model in OpenVINO on the CPU, computed in float32 or, where the CPU has it, bfloat16; on as many
    threads as torch has."""
    need("openvino")
    import openvino

    converted = openvino.convert_model(model, example_input=example)
    hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": hint}
    compiled = openvino.Core().compile_model(converted, "CPU", options)
    return lambda x: torch.from_numpy(compiled(x.numpy())[0])
