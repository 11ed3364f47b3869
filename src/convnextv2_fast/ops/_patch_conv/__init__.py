"""Stem and downsampling: non-overlapping k x k, stride-k convolution with its LayerNorm."""

from .op import patch_conv

__all__ = ["patch_conv"]
