"""A whole ConvNeXt block: dwconv_layer_norm and mlp_grn with the residual."""

from .op import block

__all__ = ["block"]
