"""What is measured beside this library: which peers there are, and the same weights in timm and transformers.

ONNX Runtime and OpenVINO are in :mod:`.runtimes`. Every function that needs one of them raises :class:`Unavailable`
where it cannot be imported.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import checkpoints
from ..models.convnextv2 import SIZES
from .settings import one_line

if TYPE_CHECKING:
    from types import ModuleType

MODULES = ("timm", "transformers")  # models of PyTorch
RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}  # inference on a CPU
NAMES = (*MODULES, *RUNTIMES)
PRECISIONS = {"onnxruntime": (torch.float32,), "openvino": (torch.float32, torch.bfloat16)}
_PACKAGES = {
    "timm": ("timm",),
    "transformers": ("transformers.models.convnextv2.modeling_convnextv2",),
    "onnxruntime": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
}


class Unavailable(Exception):
    """This way to compute has nothing to offer here; the message says why. A reason to skip it, never a number."""


def installed(package: str) -> bool:
    """Whether a package can be found, without importing it."""
    return importlib.util.find_spec(package) is not None


def need(*packages: str) -> None:
    """Imports packages; Unavailable if one is missing, or broken, which is not for us to repair."""
    for package in packages:
        try:
            importlib.import_module(package)
        except Exception as error:
            raise Unavailable(one_line(error, 1)) from error


def load(peer: str) -> ModuleType:
    """Imports all that a peer of :data:`NAMES` takes, and returns its package."""
    need(*_PACKAGES[peer])
    return importlib.import_module(peer)


class Logits(nn.Module):
    """Takes the logits out of transformers' output object."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits


def timm_model(size: str, state: Mapping[str, Tensor]) -> nn.Module:
    """timm's convnextv2 with the weights of ours."""
    model = load("timm").create_model(f"convnextv2_{size}", pretrained=False, num_classes=state["head.bias"].shape[0])
    model.load_state_dict(checkpoints.convert_state_dict(dict(state), source="upstream", target="timm"))
    return model


def timm_block(dim: int, state: Mapping[str, Tensor]) -> nn.Module:
    """timm's block, `[N, C, H, W]`, with the parameters of our dense block."""
    load("timm")
    from timm.models.convnext import ConvNeXtBlock

    block = ConvNeXtBlock(dim, use_grn=True, ls_init_value=None)  # type: ignore[arg-type]
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
    load("timm")
    from timm.layers.grn import GlobalResponseNorm
    from timm.layers.mlp import GlobalResponseNormMlp

    if op == "grn":
        norm = GlobalResponseNorm(1)

        def run_grn(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
            return torch.func.functional_call(norm, {"weight": gamma, "bias": beta}, (x,))

        return run_grn

    mlp = GlobalResponseNormMlp(1, 4)
    names = ("fc1.weight", "fc1.bias", "grn.weight", "grn.bias", "fc2.weight", "fc2.bias")

    def run_mlp(u: Tensor, *params: Tensor, residual: Tensor) -> Tensor:
        return torch.func.functional_call(mlp, dict(zip(names, params, strict=True)), (u,)) + residual

    return run_mlp


def transformers_config(size: str, classes: int) -> Any:
    """transformers' configuration; its final LayerNorm has another eps by default, ours is upstream's."""
    load("transformers")
    from transformers import ConvNextV2Config

    depths, dims = SIZES[size]
    options: dict[str, Any] = dict(num_labels=classes, layer_norm_eps=1e-6)
    return ConvNextV2Config(depths=list(depths), hidden_sizes=list(dims), **options)


def transformers_model(size: str, state: Mapping[str, Tensor]) -> nn.Module:
    """transformers' ConvNextV2ForImageClassification with the weights of ours, returning logits."""
    config = transformers_config(size, state["head.bias"].shape[0])
    from transformers import ConvNextV2ForImageClassification

    model = ConvNextV2ForImageClassification(config)
    model.load_state_dict(checkpoints.convert_state_dict(dict(state), source="upstream", target="transformers"))
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
