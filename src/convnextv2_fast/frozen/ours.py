"""This library's own dense model."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..models import convnextv2
from ..models.utils import LayerNorm
from .call import run
from .guards import Guarded
from .plan import Plan, refuse, refuse_other_methods
from .record import Call, Draft, Part

_METHODS = {
    name: getattr(convnextv2.ConvNeXtV2, name) for name in ("forward_features", "forward_features_list", "_stages")
}


class FrozenConvNeXtV2(Guarded):
    features_only: bool
    _in_the_program = ("out_indices",)

    def forward_features_list(self, x: Tensor) -> list[Tensor]:
        return _apart(run(self, x, "list"))

    def forward_features(self, x: Tensor) -> Tensor:
        return run(self, x, "features")[0]

    def forward(self, x: Tensor) -> Any:
        return self.forward_features_list(x) if self.features_only else run(self, x, "logits")[0]


def _apart(maps: list[Tensor]) -> list[Tensor]:
    """The maps, with a copy of each that is there again: `out_indices` may name a stage twice."""
    return [m.clone() if any(m is other for other in maps[:i]) else m for i, m in enumerate(maps)]


def draft(model: Any) -> Draft:
    """The steps of a model of class ConvNeXtV2."""
    refuse_other_methods(model, _METHODS)
    stem = model.downsample_layers[0]
    pair = stem.parts() if isinstance(stem, convnextv2.PatchConv) else f"it is a {type(stem).__name__}"
    plan = Plan({"": model}, getattr(pair, "conv", None), pair if isinstance(pair, str) else None)
    if not isinstance(model.out_indices, tuple | list) or not {*model.out_indices} <= {*range(len(model.stages))}:
        refuse("", f"its out_indices are {model.out_indices}, and there are stages 0 to {len(model.stages) - 1}")
    listed = {}
    plan.plain("downsample_layers", model.downsample_layers, nn.ModuleList)
    plan.plain("stages", model.stages, nn.ModuleList)
    for i, (layer, stage) in enumerate(zip(model.downsample_layers, model.stages, strict=True)):
        name = f"downsample_layers.{i}"
        plan.plain(name, layer, convnextv2.PatchConv)
        start = plan.patches(name, layer, layer.parts())
        last = plan.each(f"stages.{i}", stage, _parts, start, nn.Sequential)
        norm = getattr(model, f"norm{i}", None)
        if norm is not None and i not in model.out_indices:  # nothing calls it
            plan.plain(f"norm{i}", norm, LayerNorm)
            norm = None
        listed[i] = last if norm is None else plan.norm(f"norm{i}", norm, (LayerNorm,), aside=True)
    calls = {"list": Call.of(("", "forward_features_list"), *(listed[i] for i in model.out_indices))}
    least = plan.reduction
    identity = isinstance(model.norm, nn.Identity)
    if identity:
        plan.plain("norm", model.norm, nn.Identity)
    features = plan.pool("norm", None if identity else model.norm, (nn.LayerNorm,))
    logits = features
    if isinstance(model.head, nn.Identity):
        plan.plain("head", model.head, nn.Identity)
    else:
        logits = plan.linear("head", model.head)
    calls |= {"features": Call.of(("", "forward_features"), features), "logits": Call.of(("", "forward"), logits)}
    return Draft(plan, {"": Part(plan.image_channels, max(least, 32), calls)}, {"": FrozenConvNeXtV2})


def _parts(block: Any) -> Any:
    return block.parts() if type(block) is convnextv2.Block else f"it is a {type(block).__name__}"
