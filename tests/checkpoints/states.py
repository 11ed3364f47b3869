"""State dicts of a small ConvNeXt V2 as each library has them, made without the code under test.

timm's and transformers' come from their own models; upstream's and mmpretrain's names are spelled out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import peers
from ..golden import vectors

DEPTHS, DIMS, CLASSES = (1, 2, 1, 1), (8, 16, 24, 40), 5
State = dict[str, Tensor]


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter away from its initial value (GRN's are 0, LayerNorm's 1 and 0); activations stay near 1."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            fan_in = p[0].numel()
            if ".grn." in name:
                p.copy_(0.5 * noise)
            elif p.ndim == 1:
                p.copy_(0.2 * noise + (1 if name.endswith("weight") else 0))
            else:
                p.copy_(noise / fan_in**0.5)
    return module


def filled(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> State:
    g = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}


def upstream_shapes(depths=DEPTHS, dims=DIMS, classes: int | None = CLASSES, in_chans: int = 3) -> dict[str, tuple]:
    """Names and shapes of facebookresearch/ConvNeXt-V2's dense model; `classes` None: without final norm and head."""
    s: dict[str, tuple] = {}
    for i, c in enumerate(dims):
        if i == 0:
            s |= {"downsample_layers.0.0.weight": (c, in_chans, 4, 4), "downsample_layers.0.0.bias": (c,)}
            s |= {"downsample_layers.0.1.weight": (c,), "downsample_layers.0.1.bias": (c,)}
        else:
            b = dims[i - 1]
            s |= {f"downsample_layers.{i}.0.weight": (b,), f"downsample_layers.{i}.0.bias": (b,)}
            s |= {f"downsample_layers.{i}.1.weight": (c, b, 2, 2), f"downsample_layers.{i}.1.bias": (c,)}
    for i, (depth, c) in enumerate(zip(depths, dims, strict=True)):
        for j in range(depth):
            p = f"stages.{i}.{j}."
            s |= {p + "dwconv.weight": (c, 1, 7, 7), p + "dwconv.bias": (c,)}
            s |= {p + "norm.weight": (c,), p + "norm.bias": (c,)}
            s |= {p + "pwconv1.weight": (4 * c, c), p + "pwconv1.bias": (4 * c,)}
            s |= {p + "grn.gamma": (1, 1, 1, 4 * c), p + "grn.beta": (1, 1, 1, 4 * c)}
            s |= {p + "pwconv2.weight": (c, 4 * c), p + "pwconv2.bias": (c,)}
    if classes is not None:
        c = dims[-1]
        s |= {"norm.weight": (c,), "norm.bias": (c,), "head.weight": (classes, c), "head.bias": (classes,)}
    return s


def upstream(**sizes) -> State:
    return filled(upstream_shapes(**sizes))


def fcmae() -> State:
    """The golden FCMAE's, with decoder: depths 1, 1, 2, 1, dims 8, 16, 32, 64."""
    return vectors.state_dict()


def timm_model(conv_mlp: bool, **kwargs) -> nn.Module:
    from importlib import import_module

    peers.timm()
    convnext = import_module("timm.models.convnext").ConvNeXt
    sizes = {"depths": DEPTHS, "dims": DIMS, "num_classes": CLASSES} | kwargs
    return convnext(use_grn=True, ls_init_value=None, conv_mlp=conv_mlp, **sizes)


def timm(conv_mlp: bool) -> State:
    return dict(randomise(timm_model(conv_mlp)).state_dict())


def transformers_model(kind: str = "ForImageClassification", **kwargs) -> nn.Module:
    library = peers.transformers()
    sizes = {"depths": list(DEPTHS), "hidden_sizes": list(DIMS), "num_labels": CLASSES} | kwargs
    # its final norm has eps 1e-12 by default, unlike upstream's 1e-6 and all of its own other norms
    return getattr(library, f"ConvNextV2{kind}")(library.ConvNextV2Config(layer_norm_eps=1e-6, **sizes))


def transformers() -> State:
    return dict(randomise(transformers_model()).state_dict())


def mmpretrain(classifier: bool = True) -> State:
    """An ImageClassifier's, or a detector's backbone with `norm0` .. `norm3`; GRN (4C,), linear pointwise weights."""
    shapes = {}
    for name, shape in upstream_shapes(classes=CLASSES if classifier else None).items():
        if name.startswith("head."):
            shapes[name.replace("head.", "head.fc.")] = shape
            continue
        name = name.replace("dwconv", "depthwise_conv").replace("pwconv", "pointwise_conv")
        name = "norm3" + name.removeprefix("norm") if name.startswith("norm.") else name
        shapes["backbone." + name] = shape[-1:] if "grn" in name else shape
    if not classifier:
        shapes |= {f"backbone.norm{i}.{p}": (c,) for i, c in enumerate(DIMS) for p in ("weight", "bias")}
    return filled(shapes)


SOURCES: dict[str, Callable[[], State]] = {
    "upstream": upstream,
    "fcmae": fcmae,
    "timm": lambda: timm(False),
    "transformers": transformers,
    "mmpretrain": mmpretrain,
}


def same(got: State, want: State) -> None:
    """The same names, shapes, dtypes and bits."""
    assert set(got) == set(want)
    for name, x in want.items():
        assert got[name].dtype == x.dtype and got[name].is_contiguous(), name
        assert torch.equal(got[name], x), name
