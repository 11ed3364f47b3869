"""timm's ConvNeXt, V1 and V2: classifiers, and lists or dictionaries of features."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from timm.layers import SelectAdaptivePool2d
from timm.layers.adaptive_avgmax_pool import FastAdaptiveAvgPool
from timm.layers.classifier import ClassifierHead, NormMlpClassifierHead
from timm.models._features import FeatureDictNet, FeatureListNet
from timm.models.convnext import ConvNeXt, ConvNeXtStage
from torch import Tensor, nn

from ..adapters._forwards import require_names
from ..adapters.timm import KNOWN, NORMS_2D, pair, parts
from ..fusion import Pair
from .call import run
from .guards import Guarded, record_of, refuse_released
from .plan import Plan, refuse, refuse_other_methods
from .record import Call, Draft, Part

for _function, _names in (
    (ConvNeXt.forward, "forward_features forward_head"),
    (ConvNeXt.forward_features, "norm_pre stages stem"),
    (ConvNeXt.forward_head, "head"),
    (ConvNeXtStage.forward, "blocks checkpoint_seq downsample grad_checkpointing is_scripting jit torch"),
    (NormMlpClassifierHead.forward, "drop fc flatten global_pool norm pre_logits"),
    (ClassifierHead.forward, "drop fc flatten global_pool"),
    (SelectAdaptivePool2d.forward, "flatten pool"),
    (FastAdaptiveAvgPool.forward, "dim flatten mean"),
    (FeatureDictNet.forward, "_collect"),
    (FeatureListNet.forward, "_collect list values"),
    (
        FeatureDictNet._collect,
        "OrderedDict cat checkpoint concat enumerate getattr grad_checkpointing is_scripting isinstance items jit len "
        "list max return_layers torch tuple",
    ),
):
    require_names(_function, _names)

_METHODS = {name: getattr(ConvNeXt, name) for name in ("forward_features", "forward_head")}
_COLLECT = {"_collect": FeatureDictNet._collect}
_POOLS = ("avg", "fast", "fastavg")  # SelectAdaptivePool2d's names of the mean


class FrozenConvNeXt(Guarded):
    def forward_features(self, x: Tensor) -> Tensor:
        return run(self, x, "features")[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Any:
        record = record_of(self)
        if record.released:
            refuse_released(record.name, "its head cannot run alone")
        return super().forward_head(x, pre_logits=pre_logits)  # type: ignore[misc]

    def forward_intermediates(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        record = record_of(self)
        if record.released:
            refuse_released(record.name, "its stages cannot run one by one")
        return super().forward_intermediates(x, *args, **kwargs)  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        return run(self, x, "logits")[0]


class FrozenFeatureListNet(Guarded):
    def forward(self, x: Tensor) -> list[Tensor]:
        return run(self, x, "list")


class FrozenFeatureDictNet(Guarded):
    return_layers: dict[str, str]
    keys: Callable[[], Any]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        names = [self.return_layers[key] for key in self.keys() if key in self.return_layers]
        return OrderedDict(zip(names, run(self, x, "list"), strict=True))


def _draft(model: Any) -> Draft:
    refuse_other_methods(model, _METHODS)
    stem = pair(model.stem) if isinstance(model.stem, nn.Sequential) else None
    plan = Plan({"": model}, None if stem is None else stem.conv)
    last = plan.patches("stem", model.stem, stem)
    plan.plain("stages", model.stages, nn.Sequential)
    for i, stage in enumerate(model.stages):
        last = _stage(plan, f"stages.{i}", stage, last)
    if isinstance(model.norm_pre, nn.Identity):
        plan.plain("norm_pre", model.norm_pre, nn.Identity)
    else:
        last = plan.norm("norm_pre", model.norm_pre, NORMS_2D)
    calls = {"features": Call.of(("", "forward_features"), last)}
    least = plan.reduction
    calls["logits"] = Call.of(("", "forward"), _head(plan, model.head, last))
    return Draft(plan, {"": Part(plan.image_channels, least, calls)}, {"": FrozenConvNeXt})


def _stage(plan: Plan, name: str, stage: Any, last: Any) -> Any:
    plan.plain(name, stage, ConvNeXtStage)
    if isinstance(stage.downsample, nn.Identity):
        plan.plain(f"{name}.downsample", stage.downsample, nn.Identity)
    else:
        found = pair(stage.downsample) if isinstance(stage.downsample, nn.Sequential) else None
        last = plan.patches(f"{name}.downsample", stage.downsample, found)
    last = plan.each(f"{name}.blocks", stage.blocks, parts, last, nn.Sequential)
    for i, block in enumerate(stage.blocks):
        plan.plain(f"{name}.blocks.{i}.shortcut", block.shortcut, nn.Identity)
    return last


def _head(plan: Plan, head: Any, last: Any) -> Any:
    plan.plain("head", head, NormMlpClassifierHead, ClassifierHead)
    plan.plain("head.drop", head.drop, nn.Dropout, nn.Identity)
    pool, fc, hidden = head.global_pool, head.fc, getattr(head, "pre_logits", None)
    plan.plain("head.global_pool", pool, SelectAdaptivePool2d)
    for name, m, classes in (
        ("head.fc", fc, (nn.Identity,)),
        ("head.pre_logits", hidden, (nn.Sequential, nn.Identity)),
    ):
        if isinstance(m, classes):
            plan.plain(name, m, *classes)
    with_norm = type(head) is NormMlpClassifierHead and not isinstance(head.norm, nn.Identity)
    if type(head) is NormMlpClassifierHead and not with_norm:
        plan.plain("head.norm", head.norm, nn.Identity)
    pooled = _is_pooled(plan, head)
    if not pooled and isinstance(fc, nn.Identity) and not isinstance(hidden, nn.Sequential):
        return plan.norm("head.norm", head.norm, NORMS_2D) if with_norm else last
    if not pooled:
        refuse("head.global_pool", f"it is {pool.pool_type!r}, and frozen models pool by the mean")
    last = plan.pool("head.norm", head.norm if with_norm else None, NORMS_2D, "channels_first")
    if isinstance(hidden, nn.Sequential):
        plan.linear("head.pre_logits.fc", hidden.fc)
        last = plan.gelu("head.pre_logits.act", hidden.act, KNOWN[False].activations)
    return last if isinstance(fc, nn.Identity) else plan.linear("head.fc", fc)


def _is_pooled(plan: Plan, head: Any) -> bool:
    """Whether the head takes the mean over H and W, and makes vectors of it; otherwise it leaves the map as it is."""
    pool = head.global_pool
    if pool.pool_type and pool.pool_type not in _POOLS:
        refuse("head.global_pool", f"it is {pool.pool_type!r}, and frozen models pool by the mean")
    classes = (nn.AdaptiveAvgPool2d, FastAdaptiveAvgPool) if pool.pool_type else (nn.Identity,)
    plan.plain("head.global_pool.pool", pool.pool, *classes)
    if isinstance(pool.pool, nn.AdaptiveAvgPool2d) and pool.pool.output_size not in (1, (1, 1)):
        refuse("head.global_pool.pool", f"its output_size is {pool.pool.output_size}, and frozen models have 1")
    fast = isinstance(pool.pool, FastAdaptiveAvgPool)
    if fast and pool.pool.dim not in ((2, 3), [2, 3]):
        refuse("head.global_pool.pool", "it is not over H and W of maps [N, C, H, W]")
    flattened = fast and pool.pool.flatten
    for name, m in (("head.global_pool.flatten", pool.flatten), ("head.flatten", head.flatten)):
        plan.plain(name, m, *((nn.Flatten, nn.Identity) if pool.pool_type else (nn.Identity,)))
        if isinstance(m, nn.Flatten):
            flattened = True
            if (m.start_dim, m.end_dim) != (1, -1):
                refuse(name, "it flattens other dimensions than those behind the samples")
    if pool.pool_type and not flattened:
        refuse("head.global_pool", "nothing flattens its result to [N, C]")
    return bool(pool.pool_type)


def _features(model: Any) -> Draft:
    modules = list(model.items())
    refuse_other_methods(model, _COLLECT)
    if [name for name, _ in modules[:2]] != ["stem_0", "stem_1"]:
        refuse("", "it is not a list of features as timm.create_model makes it of a ConvNeXt")
    (_, conv), (_, norm) = modules[:2]
    plan = Plan({"": model}, conv)
    last = plan.patches("stem_1", norm, Pair(conv, norm, NORMS_2D, norm_first=False))
    outputs = []
    for name, stage in modules[2:]:
        last = _stage(plan, name, stage, last)
        if name in model.return_layers:
            outputs.append(last)
    if len(outputs) != len(model.return_layers):
        refuse("", "it returns the features of other modules than stages")
    mixin = FrozenFeatureListNet if type(model) is FeatureListNet else FrozenFeatureDictNet
    part = Part(plan.image_channels, plan.reduction, {"list": Call.of(("", "forward"), *outputs)})
    return Draft(plan, {"": part}, {"": mixin})


DRAFTERS: dict[type, Callable[[Any], Draft]] = {
    ConvNeXt: _draft,
    FeatureListNet: _features,
    FeatureDictNet: _features,
}
