"""Submanifold depthwise 7x7 convolution alone."""

from .op import sparse_dwconv

__all__ = ["sparse_dwconv"]
