"""The ops. The folder `_<op>` of each has its public function, its reference and its kernels."""

from ._block import block
from ._dwconv import sparse_dwconv
from ._dwconv_layer_norm import dwconv_layer_norm
from ._grn import grn
from ._layer_norm import layer_norm
from ._mlp_grn import mlp_grn
from ._patch_conv import patch_conv

__all__ = ["block", "dwconv_layer_norm", "grn", "layer_norm", "mlp_grn", "patch_conv", "sparse_dwconv"]
