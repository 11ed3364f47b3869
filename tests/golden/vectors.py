"""Loads the golden vectors: FCMAE and its sparse operators as computed by upstream's code on MinkowskiEngine (CPU).

Weights and images come from `recipe.py` (frozen numpy streams), so only results are stored."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import recipe

HERE = Path(__file__).parent
CONFIG = {"depths": [1, 1, 2, 1], "dims": [8, 16, 32, 64], "decoder_embed_dim": 32, "decoder_depth": 1, "img_size": 64}


def arrays(name: str) -> dict[str, Tensor]:
    """All arrays of `<name>.npz` as tensors."""
    with np.load(HERE / f"{name}.npz") as z:
        return {k: torch.from_numpy(np.array(z[k])) for k in z.files if z[k].dtype.kind in "fi"}


def names() -> dict:
    """Names and shapes of the state_dict, and of what upstream's remap_checkpoint_keys makes of it (fingerprints)."""
    return json.loads((HERE / "fcmae_names.json").read_text())


def state_dict(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {k: torch.from_numpy(recipe.param(k, s)).to(dtype) for k, s in names()["state_dict"].items()}


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.from_numpy(recipe.images(1, 64, 2)).to(dtype)


def gradients() -> dict[str, Tensor]:
    """d loss / d parameter of the float64 run; `pred.weight` rounded to float32."""
    found = arrays("fcmae_gradients_stage3") | arrays("fcmae_gradients_rest")
    return found | {"pred.weight": arrays("fcmae_gradient_pred")["float32"]}


def fingerprint(tensor: Tensor, name: str) -> float:
    """One number that catches a permuted or transposed tensor, which a norm does not."""
    return recipe.fingerprint(tensor.detach().double().numpy(), name)
