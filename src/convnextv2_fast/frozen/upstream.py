"""The models of facebookresearch/ConvNeXt-V2, and of ConvNeXt (V1), wherever their files are.

They have no package. A class of that name is known by its modules, by the names that its code uses, and by a trial with
stand-ins for the modules.
"""

from __future__ import annotations

import builtins
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import _trials
from ..adapters.upstream import is_block, pair, parts
from .call import run
from .guards import Guarded
from .plan import Plan, plain_class, refuse
from .record import Call, Draft, Part

_CHILDREN = ("downsample_layers", "stages", "norm", "head")
_NAMES = {
    "forward_features": {"range", "downsample_layers", "stages", "norm", "mean"},
    "forward": {"forward_features", "head"},
}


class FrozenUpstream(Guarded):
    def forward_features(self, x: Tensor) -> Tensor:
        return run(self, x, "features")[0]

    def forward(self, x: Tensor) -> Tensor:
        return run(self, x, "logits")[0]


def is_model(model: nn.Module) -> bool:
    """Whether a module has the class name and the modules of upstream's model."""
    return plain_class(model).__name__ in ("ConvNeXtV2", "ConvNeXt") and {*_CHILDREN} <= {*model._modules}


def draft(model: Any) -> Draft:
    cls: Any = plain_class(model)
    own = [name for name in _NAMES if name in vars(model)]
    why = f"has a {own[0]} of its own" if own else _why_not(cls, cls.forward, cls.forward_features)
    if why is None and (len(model.downsample_layers) != 4 or len(model.stages) != 4):
        why = "has other than four stages"
    if why is not None:
        refuse("", f"its class has the name of upstream's, but it {why}")
    stem = pair(model.downsample_layers[0])
    plan = Plan({"": model}, getattr(stem, "conv", None), stem if isinstance(stem, str) else None)
    plan.plain("downsample_layers", model.downsample_layers, nn.ModuleList)
    plan.plain("stages", model.stages, nn.ModuleList)
    last: Any = None
    for i, (layer, stage) in enumerate(zip(model.downsample_layers, model.stages, strict=True)):
        last = plan.patches(f"downsample_layers.{i}", layer, pair(layer) if isinstance(layer, nn.Sequential) else None)
        last = plan.each(f"stages.{i}", stage, _parts, last, nn.Sequential)
    least = plan.reduction
    features = plan.pool("norm", model.norm, (nn.LayerNorm,))
    logits = features
    if isinstance(model.head, nn.Identity):
        plan.plain("head", model.head, nn.Identity)
    else:
        logits = plan.linear("head", model.head)
    calls = {"features": Call.of(("", "forward_features"), features), "logits": Call.of(("", "forward"), logits)}
    return Draft(plan, {"": Part(plan.image_channels, least, calls)}, {"": FrozenUpstream})


def _parts(block: Any) -> Any:
    return parts(block) if is_block(block) else f"it is a {type(block).__name__}"


@functools.lru_cache(maxsize=256)
def _why_not(cls: Any, forward: Any, forward_features: Any) -> str | None:
    """Why models of the class do not run their modules as upstream's do; None if they do."""
    for function, name in ((forward, "forward"), (forward_features, "forward_features")):
        code = getattr(function, "__code__", None)
        others = {"a wrapper"} if code is None or code.co_freevars else {*code.co_names} - _NAMES[name]
        if others or function.__globals__.get("range", builtins.range) is not builtins.range:
            return f"has a {name} that uses {', '.join(sorted(others)) or 'another range'}"
    with _trials.apart():
        drawn = torch.rand(10, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
        steps: list[Callable[[Tensor], Tensor]] = [functools.partial(_stand_in, number) for number in drawn]
        own = {"downsample_layers": steps[:4], "stages": steps[4:8], "norm": steps[8], "head": steps[9]}
        model: Any = _trials.shell(cls, own)
        x = torch.linspace(-1, 2, 36, dtype=torch.float64).view(2, 3, 2, 3)
        want = x
        for i in range(4):
            want = steps[4 + i](steps[i](want))
        want = steps[8](want.mean((-2, -1)))
        try:
            same = torch.equal(model.forward_features(x), want) and torch.equal(model.forward(x), steps[9](want))
            model.forward(x.to("meta"))  # fails where it decides by values
        except Exception as error:  # a class that only looks like upstream's may do anything
            return f"could not be tried out: {type(error).__name__}"
    return None if same else "computes something else"


def _stand_in(number: float, u: Tensor) -> Tensor:
    return (u + number).sin()
