"""The block's first half: depthwise 7x7 convolution, then LayerNorm."""

from .op import dwconv_layer_norm

__all__ = ["dwconv_layer_norm"]
