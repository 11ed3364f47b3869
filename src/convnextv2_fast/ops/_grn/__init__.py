"""Global response normalisation (Woo et al., ConvNeXt V2, arXiv 2301.00808)."""

from .op import grn

__all__ = ["grn"]
