"""transformers' ConvNext and ConvNextV2: model, classifier, backbone, and whatever holds them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.activations import GELUActivation
from transformers.models.convnext import modeling_convnext as v1
from transformers.models.convnextv2 import modeling_convnextv2 as v2

from ..fused_modules import run_pair
from ..fusion import Known, Pair, Parts
from ._drop_paths import row_scale, scale_of
from ._forwards import require
from ._swap import Swap, original_forward, replaced_forward, run, run_planned

NORMS = (v1.ConvNextLayerNorm, v2.ConvNextV2LayerNorm)
Layer = v1.ConvNextLayer | v2.ConvNextV2Layer
Stage = v1.ConvNextStage | v2.ConvNextV2Stage
Embeddings = v1.ConvNextEmbeddings | v2.ConvNextV2Embeddings

_V1 = "act drop_path dwconv layernorm permute pwconv1 pwconv2"
for _cls, _names in (
    (v1.ConvNextLayer, f"{_V1} layer_scale_parameter"),
    (v2.ConvNextV2Layer, f"{_V1} grn"),
    *((cls, "downsampling_layer layers") for cls in (v1.ConvNextStage, v2.ConvNextV2Stage)),
    *(
        (cls, "ValueError layernorm num_channels patch_embeddings shape")
        for cls in (v1.ConvNextEmbeddings, v2.ConvNextV2Embeddings)
    ),
    *((cls, "data_format forward permute super") for cls in NORMS),
    (v2.ConvNextV2GRN, "bias linalg mean torch vector_norm weight"),
):
    require(_cls, _names)


def parts(layer: Any) -> Parts | str:
    """Returns the layer's modules, or the reason why the layer is left alone."""
    if isinstance(layer.act, GELUActivation) and layer.act.act is not nn.functional.gelu:
        return f"its activation is {layer.act.act}"
    second = isinstance(layer, v2.ConvNextV2Layer)
    return Parts(
        KNOWN,
        conv=layer.dwconv,
        norm=layer.layernorm,
        fc1=layer.pwconv1,
        act=layer.act,
        grn=layer.grn if second else None,
        fc2=layer.pwconv2,
        drop_path=layer.drop_path,
        layer_scale=None if second else layer.layer_scale_parameter,
    )


KNOWN = Known(
    norms=NORMS,
    grns=(v2.ConvNextV2GRN, type(None)),
    drop_paths=(nn.Identity, *(cls for cls in (v1.ConvNextDropPath, v2.ConvNextV2DropPath) if scale_of(cls))),
    row_scale=row_scale,
    activations=(nn.GELU, GELUActivation),
    grn_names=("weight", "bias"),
)


def layer_forward(self: Layer, features: Tensor) -> Tensor:
    return run_planned(self, parts, features)


def downsampling(stage: Stage) -> Pair | None:
    """Returns convolution and LayerNorm of a stage's downsampling layer, if there is one."""
    layers = stage.downsampling_layer
    return Pair(layers[1], layers[0], NORMS, norm_first=True) if len(layers) == 2 else None


def stage_forward(self: Stage, features: Tensor) -> Tensor:
    pair = downsampling(self)
    y = None if pair is None or replaced_forward(self) else run_pair(pair, features)
    if y is None:
        return original_forward(self, features)
    for layer in self.layers:
        y = layer(y)
    return y


def stem(embeddings: Embeddings) -> Pair:
    """Returns convolution and LayerNorm of the embeddings."""
    return Pair(embeddings.patch_embeddings, embeddings.layernorm, NORMS, norm_first=False)


def embeddings_forward(self: Embeddings, pixel_values: Tensor) -> Tensor:
    return run(self, stem(self) if pixel_values.shape[1] == self.num_channels else None, pixel_values)


SWAPS = tuple(
    swap
    for module, prefix in ((v1, "ConvNext"), (v2, "ConvNextV2"))
    for swap in (
        Swap(getattr(module, f"{prefix}Layer"), layer_forward, parts),
        Swap(getattr(module, f"{prefix}Stage"), stage_forward, downsampling),
        Swap(getattr(module, f"{prefix}Embeddings"), embeddings_forward, stem),
    )
)
