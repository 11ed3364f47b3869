"""The block's second half: Linear, GELU, GRN, Linear, layer scale, drop path, residual."""

from .op import mlp_grn

__all__ = ["mlp_grn"]
