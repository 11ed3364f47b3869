"""The models that the tests of this folder take through PyTorch: our own, timm's and transformers' accelerated."""

import torch
from torch import nn

import convnextv2_fast as cf
from convnextv2_fast.testing import randomise
from tests import peers

SMALL = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 40)}
NAMES = ("ours", "timm", "transformers", "v1")


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).logits


def build(name):
    """A small classifier of five classes with nothing at zero, in evaluation mode; the same in every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _build(name)


def _build(name):
    if name == "ours":
        return randomise(cf.ConvNeXtV2(num_classes=5, depths=[1, 1, 2, 1], dims=[8, 16, 24, 40]), 0).eval()
    if name == "transformers":
        transformers = peers.transformers()
        config = transformers.ConvNextV2Config(hidden_sizes=[8, 16, 24, 40], depths=[1, 1, 2, 1], num_labels=5)
        model = Logits(transformers.ConvNextV2ForImageClassification(config))
    else:
        peers.timm()
        from timm.models.convnext import ConvNeXt

        grn = dict(use_grn=True, ls_init_value=None, conv_mlp=True) if name == "timm" else dict(ls_init_value=0.3)
        model = ConvNeXt(num_classes=5, **SMALL, **grn)
    assert not cf.accelerate(randomise(model, 0)).not_replaced
    return model.eval()


def images(n=2, size=64):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def close(got, want, rtol=2e-5):
    assert (got - want).abs().max() <= rtol * want.abs().max()
