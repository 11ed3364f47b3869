"""The ops. Each has a folder with its public function, its reference and its kernels."""

from .dwconv_layer_norm import dwconv_layer_norm
from .grn import grn
from .layer_norm import layer_norm
from .mlp_grn import mlp_grn
from .patch_conv import patch_conv
from .sparse_dwconv import sparse_dwconv

__all__ = ["dwconv_layer_norm", "grn", "layer_norm", "mlp_grn", "patch_conv", "sparse_dwconv"]
