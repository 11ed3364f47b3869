"""Upstream's `optim_factory` and learning rate schedule: parameter groups, layer-wise decay, cosine with warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import nn

from .finetune_config import FinetuneConfig
from .libraries import blamed

LayerOf = Callable[[str], int]


def get_num_layer_for_convnext_single(var_name: str, depths: Sequence[int]) -> int:
    """Layer of a parameter, counted block by block: 0 for the stem, `sum(depths) + 1` for norm and head."""
    name = var_name.split(".")
    if name[0] == "downsample_layers":
        return 0 if int(name[1]) == 0 else sum(depths[: int(name[1])]) + 1
    if name[0] == "stages":
        return sum(depths[: int(name[1])]) + int(name[2]) + 1
    return sum(depths) + 1


def get_num_layer_for_convnext(var_name: str) -> int:
    """Layer of a parameter in groups of three blocks, made for depths of (3, 3, 27, 3): 0 the stem, 13 the head."""
    name = var_name.split(".")
    if name[0] == "downsample_layers":
        return (0, 2, 3, 12)[int(name[1])]
    if name[0] == "stages":
        stage, block = int(name[1]), int(name[2])
        return 3 + block // 3 if stage == 2 else (1, 2, 0, 12)[stage]
    return 13


class LayerDecayValueAssigner:
    """Learning rate factor of every layer.

    Args:
        values: factors by layer id.
        depths: of the model; for `layer_decay_type="single"`.
        layer_decay_type: "single" (a layer a block) or "group" (three blocks a layer).
    """

    def __init__(
        self, values: Sequence[float], depths: Sequence[int] = (3, 3, 27, 3), layer_decay_type: str = "single"
    ) -> None:
        if layer_decay_type not in ("single", "group"):
            raise ValueError(f"layer_decay_type must be 'single' or 'group', got {layer_decay_type!r}")
        self.values, self.depths, self.layer_decay_type = list(values), list(depths), layer_decay_type

    @classmethod
    def of(cls, decay: float, depths: Sequence[int], layer_decay_type: str) -> LayerDecayValueAssigner:
        """`decay**(N + 1 - layer)` for N = 12 groups or N = sum(depths) blocks, as upstream's main_finetune."""
        layers = 12 if layer_decay_type == "group" else sum(depths)
        return cls([decay ** (layers + 1 - i) for i in range(layers + 2)], depths, layer_decay_type)

    def get_scale(self, layer_id: int) -> float:
        return self.values[layer_id]

    def get_layer_id(self, var_name: str) -> int:
        if self.layer_decay_type == "single":
            return get_num_layer_for_convnext_single(var_name, self.depths)
        return get_num_layer_for_convnext(var_name)


def get_parameter_groups(
    model: nn.Module,
    weight_decay: float = 1e-5,
    skip_list: Collection[str] = (),
    get_num_layer: LayerOf | None = None,
    get_layer_scale: Callable[[int], float] | None = None,
) -> list[dict[str, Any]]:
    """Optimizer groups by layer and decay, each with its `lr_scale`. No decay on vectors, biases, GRN's gamma and beta
    and what `skip_list` names."""
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        bare = parameter.ndim == 1 or name.endswith((".bias", ".gamma", ".beta")) or name in skip_list
        layer = None if get_num_layer is None else get_num_layer(name)
        key = ("" if layer is None else f"layer_{layer}_") + ("no_decay" if bare else "decay")
        if key not in groups:
            scale = 1.0 if get_layer_scale is None or layer is None else get_layer_scale(layer)
            decay = 0.0 if bare else weight_decay
            groups[key] = {"name": key, "weight_decay": decay, "params": [], "lr_scale": scale}
        groups[key]["params"].append(parameter)
    return list(groups.values())


def pretraining_groups(model: nn.Module, weight_decay: float, decay_grn: bool = True) -> list[dict[str, Any]]:
    """Two groups, without and with decay, as upstream's pre-training (timm 0.3.2's add_weight_decay): vectors and
    biases have none. There GRN's gamma and beta and the mask token do decay; `decay_grn=False` exempts them."""
    bare: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        exempt = not decay_grn and (name.endswith((".gamma", ".beta")) or name == "mask_token")
        (bare if parameter.ndim == 1 or name.endswith(".bias") or exempt else rest).append(parameter)
    return [{"params": bare, "weight_decay": 0.0}, {"params": rest, "weight_decay": weight_decay}]


def create_optimizer(
    config: FinetuneConfig,
    model: nn.Module,
    get_num_layer: LayerOf | None = None,
    get_layer_scale: Callable[[int], float] | None = None,
    filter_bias_and_bn: bool = True,
    skip_list: Collection[str] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer that `config.opt` names, of timm's, over :func:`get_parameter_groups`.

    Args:
        config: its `opt`, `lr`, `weight_decay`, `opt_eps`, `opt_betas` and `momentum` count.
    Raises:
        TrainingError: timm knows no such optimizer, or it does not take these values.
    """
    from timm.optim import create_optimizer_v2

    decay = config.weight_decay
    if decay and filter_bias_and_bn:
        skip = skip_list if skip_list is not None else getattr(model, "no_weight_decay", tuple)()
        groups: Any = get_parameter_groups(model, decay, skip, get_num_layer, get_layer_scale)
        decay = 0.0
    else:
        groups = [p for p in model.parameters() if p.requires_grad]
    options: dict[str, Any] = {"eps": config.opt_eps} | ({"betas": config.opt_betas} if config.opt_betas else {})
    given = [f"--opt {config.opt}", *(f"--opt_{name} {_words(value)}" for name, value in options.items())]
    options |= {"lr": config.lr, "momentum": config.momentum}
    with blamed(" ".join(given)):
        return create_optimizer_v2(groups, opt=config.opt, weight_decay=decay, **options)


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def cosine(at: float, warmup: float, end: float, peak: float, lowest: float = 0.0) -> float:
    """Upstream's schedule at a fractional epoch: linear from 0 to `peak`, then half a cosine down to `lowest`."""
    if at < warmup:
        return peak * at / warmup
    share = min(1.0, (at - warmup) / (end - warmup)) if end > warmup else 1.0
    return lowest + (peak - lowest) * 0.5 * (1.0 + math.cos(math.pi * share))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """`rate` times the `lr_scale` of every group that has one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def set_weight_decay(optimizer: torch.optim.Optimizer, decay: float) -> None:
    """In the groups that decay at all."""
    for group in optimizer.param_groups:
        if group["weight_decay"] > 0:
            group["weight_decay"] = decay
