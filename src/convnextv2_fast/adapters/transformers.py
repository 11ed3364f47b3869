"""transformers' ConvNext and ConvNextV2: model, classifier, backbone, and whatever holds them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation
from transformers.models.convnext import modeling_convnext as v1
from transformers.models.convnextv2 import modeling_convnextv2 as v2

from . import _block, _patch_conv
from ._swap import Inspection, Swap, original_forward

GRN_EPS = 1e-6  # written in ConvNextV2GRN.forward
NORMS = (v1.ConvNextLayerNorm, v2.ConvNextV2LayerNorm)
Layer = v1.ConvNextLayer | v2.ConvNextV2Layer
Stage = v1.ConvNextStage | v2.ConvNextV2Stage
Embeddings = v1.ConvNextEmbeddings | v2.ConvNextV2Embeddings


def parts(layer: Layer) -> _block.Parts | str:
    """Returns the layer's modules, or the reason why the layer is left alone."""
    if isinstance(layer.act, GELUActivation) and layer.act.act is not nn.functional.gelu:
        return f"its activation is {layer.act.act}"
    if getattr(layer.layernorm, "data_format", None) != "channels_last":
        return "its norm is no LayerNorm of channels_last rows"
    grn = getattr(layer, "grn", None)
    if grn is not None and type(grn) is not v2.ConvNextV2GRN:
        return f"its GRN is a {type(grn).__name__}"

    def second(u: Tensor) -> Tensor:
        a = layer.act(layer.pwconv1(u))
        return layer.pwconv2(a if grn is None else grn(a))

    return _block.Parts(
        conv=layer.dwconv,
        norm=layer.layernorm,
        norms=NORMS,
        fc1=layer.pwconv1,
        act=layer.act,
        activations=(nn.GELU, GELUActivation),
        grn=grn,
        grn_parameters=(None, None) if grn is None else (grn.weight, grn.bias),
        grn_eps=GRN_EPS,
        fc2=layer.pwconv2,
        drops=(),
        layer_scale=getattr(layer, "layer_scale_parameter", None),
        drop_path=layer.drop_path,
        drop_paths=(v1.ConvNextDropPath, v2.ConvNextV2DropPath),
        row_scale=row_scale,
        run_first=lambda x: layer.layernorm(layer.dwconv(x).permute(0, 2, 3, 1)),
        run_second=second,
    )


def row_scale(drop_path: Any, u: Tensor) -> Tensor | None:
    """The factors `[N]` that transformers' drop path draws for u `[N, H, W, C]`."""
    if drop_path.drop_prob == 0.0:
        return None
    keep = 1 - drop_path.drop_prob
    draws = torch.rand((u.shape[0], 1, 1, 1), dtype=u.dtype, device=u.device)
    return torch.floor(draws + keep).div(keep).view(-1)


def layer_forward(self: Layer, features: Tensor) -> Tensor:
    found = parts(self)
    return original_forward(self, features) if isinstance(found, str) else _block.run(found, features)


def _downsampling(stage: Stage) -> tuple[nn.Module, nn.Module] | None:
    """Returns convolution and LayerNorm of a stage's downsampling layer, if there is one."""
    layers = stage.downsampling_layer
    return (layers[1], layers[0]) if len(layers) == 2 else None


def inspect_stage(stage: Stage) -> Inspection | None:
    pair = _downsampling(stage)
    return None if pair is None else _inspect_pair(*pair)


def _inspect_pair(conv: nn.Module, norm: nn.Module) -> Inspection:
    if getattr(norm, "data_format", None) != "channels_first":
        return Inspection((), ("not patch_conv: its norm is no LayerNorm of channels_first planes",))
    return _patch_conv.inspect(conv, norm, NORMS)


def stage_forward(self: Stage, features: Tensor) -> Tensor:
    pair = _downsampling(self)
    y = None
    if pair is not None and pair[1].data_format == "channels_first":
        y = _patch_conv.run(features, *pair, NORMS, norm_first=True)
    if y is None:
        return original_forward(self, features)
    for layer in self.layers:
        y = layer(y)
    return y


def embeddings_forward(self: Embeddings, pixel_values: Tensor) -> Tensor:
    y = None
    if pixel_values.shape[1] == self.num_channels and self.layernorm.data_format == "channels_first":
        y = _patch_conv.run(pixel_values, self.patch_embeddings, self.layernorm, NORMS, norm_first=False)
    return original_forward(self, pixel_values) if y is None else y


def inspect_embeddings(m: Embeddings) -> Inspection:
    return _inspect_pair(m.patch_embeddings, m.layernorm)


SWAPS = tuple(
    swap
    for module, prefix in ((v1, "ConvNext"), (v2, "ConvNextV2"))
    for swap in (
        Swap(getattr(module, f"{prefix}Layer"), layer_forward, lambda m: _block.inspect(parts(m))),
        Swap(getattr(module, f"{prefix}Stage"), stage_forward, inspect_stage),
        Swap(getattr(module, f"{prefix}Embeddings"), embeddings_forward, inspect_embeddings),
    )
)
