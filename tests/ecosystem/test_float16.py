"""Where GRN in float16 breaks plain PyTorch: the norm over a plane passes 65504, its gradient is not a number.

Seen in fine-tuning (upstream's thread 64) and in other ports; here the statistics are float32."""

import copy

import pytest
import torch
import torch.nn.functional as F

import convnextv2_fast as cf
from tests.ecosystem.subjects import build, images


def with_large_activations(name):
    """Hidden activations near 3000 in the first stage: a plane of 16 x 16 of them has a norm of 48000 or more."""
    model = build(name).half().train()
    for key, p in model.named_parameters():
        if key.endswith(("blocks.0.mlp.fc1.bias", "layers.0.pwconv1.bias")) and p.numel() == 32:
            p.data.fill_(5000.0)
        if key.endswith(("blocks.0.mlp.fc2.weight", "layers.0.pwconv2.weight")) and p.shape[0] == 8:
            p.data.mul_(1e-3)
    return model


@pytest.mark.parametrize("name", ["timm", "transformers"])
def test_a_training_step_stays_finite(name):
    fast, labels = with_large_activations(name), torch.tensor([0, 3])
    plain = copy.deepcopy(fast)
    cf.restore(plain)
    finite = {}
    for label, model in (("plain", plain), ("fast", fast)):
        loss = F.cross_entropy(model(images().half()).float(), labels)
        loss.backward()
        finite[label] = bool(loss.isfinite()) and all(p.grad.isfinite().all() for p in model.parameters())
    assert finite == {"plain": False, "fast": True}
