"""timm, transformers, ONNX Runtime and OpenVINO, where they are installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from convnextv2_fast.cli import _peers
from convnextv2_fast.cli._peers import Logits  # noqa: F401


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
    """Imports torchvision (timm and transformers want it), also beside a torch that it was not built for."""
    from tools.environment import torchvision_operators  # noqa: F401

    importlib.import_module("torchvision")


def import_timm() -> Any:
    """timm; Unavailable if it is not installed, or lacks a package that it imports."""
    need("timm", "torchvision")
    try:
        import_torchvision()
        return importlib.import_module("timm")
    except ImportError as error:
        raise Unavailable(f"timm cannot be imported: {error}") from error


def timm_model(size: str, state: Mapping[str, Tensor]) -> nn.Module:
    """timm's convnextv2 with our weights; Unavailable if it is not installed."""
    import_timm()
    return _peers.timm_model(size, state)


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


def import_transformers() -> None:
    """Makes sure that transformers can be imported; Unavailable if it is not installed."""
    need("transformers")
    if installed("torchvision"):
        import_torchvision()


def transformers_config(size: str, num_classes: int) -> Any:
    """transformers' configuration of this size; Unavailable if it is not installed."""
    import_transformers()
    return _peers.transformers_config(size, num_classes)


def transformers_model(size: str, state: Mapping[str, Tensor]) -> nn.Module:
    """transformers' ConvNextV2ForImageClassification with our weights, returning logits."""
    import_transformers()
    return _peers.transformers_model(size, state)


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
    """The model in ONNX Runtime; Unavailable if what it takes is not installed."""
    need("onnxruntime", "onnx", "onnxscript")
    return _peers.onnx_model(model, example)


def openvino_model(model: nn.Module, example: Tensor, precision: str = "float32") -> Callable[[Tensor], Tensor]:
    """The model in OpenVINO; Unavailable if it is not installed."""
    need("openvino")
    return _peers.openvino_model(model, example, getattr(torch, precision))
