"""stub"""

import torch

from ... import library

library.define(
    "layer_norm_fwd(Tensor x, Tensor weight, Tensor bias, float eps) -> Tensor", lambda x, *_: x.new_empty(x.shape)
)
library.define(
    "layer_norm_bwd(Tensor dy, Tensor x, Tensor weight, float eps) -> (Tensor dx, Tensor dparams)",
    lambda dy, x, *_: (x.new_empty(x.shape), x.new_empty((2, x.shape[1]), dtype=torch.float32)),
)
backward = torch.ops.convnextv2_fast.layer_norm_bwd.default
