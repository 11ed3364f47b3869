"""transformers' ConvNext and ConvNextV2: model, classifier, backbone.

Their own forwards run. The embeddings run the program's first step and the encoder all others; then each stage gives
back the map that it would have computed, so that whatever transformers collects from them stays as it is.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithNoAttention
from transformers.models.convnext import modeling_convnext as v1
from transformers.models.convnextv2 import modeling_convnextv2 as v2
from transformers.utils import output_capturing
from transformers.utils.generic import merge_with_config_defaults

from ..adapters._forwards import require_names
from ..adapters._swap import Frozen
from ..adapters.transformers import downsampling, parts, stem
from ..changes import accept_forward, forward_changed
from .call import run
from .guards import Guarded, GuardedPart
from .plan import Plan, plain_class, refuse
from .record import PROGRAM, RECORD, Call, Draft, Part, Record

_HOOK = "install_output_capuring_hook.<locals>.output_capturing_hook"  # transformers' own, on its stages
_KINDS = {
    "Encoder": "BaseModelOutputWithNoAttention stages",
    "Model": "BaseModelOutputWithPoolingAndNoAttention ValueError embeddings encoder hidden_states last_hidden_state "
    "layernorm mean",
    "ForImageClassification": "ImageClassifierOutputWithNoAttention classifier config convnext convnextv2 "
    "hidden_states loss_function pooler_output",
    "Backbone": "BackboneOutput append embeddings encoder hidden_states hidden_states_norms out_features stage_names "
    "tuple zip",
}


def _class(library: Any, kind: str) -> Any:
    return getattr(library, ("ConvNext" if library is v1 else "ConvNextV2") + kind)


for _library in (v1, v2):
    for _kind, _names in _KINDS.items():
        require_names(inspect.unwrap(_class(_library, _kind).forward), _names)
        accept_forward(_class(_library, _kind))


class _Source(NamedTuple):
    """What a call reads of a module."""

    frozen_record: Record
    frozen_program: Tensor


class _Made:
    """A map of the embeddings, and the program that made it, while the map lives."""

    def __init__(self, result: Tensor, program: Tensor) -> None:
        self.program: Tensor | None = program
        self.result = weakref.ref(result, self._forget)

    def _forget(self, _: Any) -> None:
        self.program = None


_last = threading.local()
"""`made`: the last map of the embeddings in this thread. The encoder that takes it runs the same program, although the
model may have been packed anew in between."""


class FrozenEmbeddings(GuardedPart):
    def forward(self, pixel_values: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return run(self, pixel_values, "stem")[0]
        program = getattr(self, PROGRAM)
        result = run(_Source(getattr(self, RECORD), program), pixel_values, "stem")[0]
        _last.made = _Made(result, program)
        return result


def _source(encoder: Any, taken: Tensor) -> Any:
    """The encoder, or its record with the program that made the map which it takes."""
    made: _Made | None = None if torch.compiler.is_compiling() else getattr(_last, "made", None)
    if made is None or made.program is None or made.result() is not taken:
        return encoder
    _last.made = None
    return _Source(getattr(encoder, RECORD), made.program)


class FrozenStage(Frozen):
    def forward(self, features: Tensor, result: Tensor) -> Tensor:
        return result


class FrozenEncoder(GuardedPart):
    stages: Any

    @merge_with_config_defaults
    @output_capturing.capture_outputs(tie_last_hidden_states=False)
    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Any:
        features = hidden_states.contiguous(memory_format=torch.channels_last)
        results = run(_source(self, hidden_states), features, "list")
        for stage, result in zip(self.stages, results, strict=True):
            features = stage(features, result)
        return BaseModelOutputWithNoAttention(last_hidden_state=features)


def _draft(name: str, library: Any, model: Any) -> Draft:
    embeddings, encoder = model.embeddings, model.encoder
    whole = {f"{name}embeddings": embeddings, f"{name}encoder": encoder}
    plan = Plan(whole, embeddings.patch_embeddings)
    plan.plain(f"{name}embeddings", embeddings, _class(library, "Embeddings"))
    plan.plain(f"{name}encoder", encoder, _class(library, "Encoder"))
    plan.plain(f"{name}encoder.stages", encoder.stages, nn.ModuleList)
    last = plan.patches(f"{name}embeddings", embeddings, stem(embeddings))
    first, maps = last, []
    mixins: dict[str, type] = {f"{name}embeddings": FrozenEmbeddings, f"{name}encoder": FrozenEncoder}
    for i, stage in enumerate(encoder.stages):
        where = f"{name}encoder.stages.{i}"
        plan.plain(where, stage, _class(library, "Stage"), hooks=_collects)
        plan.plain(f"{where}.downsampling_layer", stage.downsampling_layer, nn.ModuleList)
        if len(stage.downsampling_layer):
            last = plan.patches(f"{where}.downsampling_layer", stage.downsampling_layer, downsampling(stage))
        last = plan.each(f"{where}.layers", stage.layers, parts, last, nn.ModuleList)
        maps.append(last._replace(reduction=last.reduction // first.reduction))
        mixins[where] = FrozenStage
    least = plan.reduction // first.reduction
    begin, rest = Call.of((f"{name}embeddings", "forward"), first), Call.of((f"{name}encoder", "stages"), *maps)
    pieces = {
        f"{name}embeddings": Part(plan.image_channels, plan.reduction, {"stem": begin}),
        f"{name}encoder": Part(first.channels, least, {"list": rest}, first.step + 1),
    }
    return Draft(plan, pieces, {"": Guarded} | mixins)


def _collects(hook: Any) -> bool:
    """Whether a hook is one of those by which transformers collects the hidden states."""
    return getattr(hook, "__qualname__", "") == _HOOK and hook.__module__ == output_capturing.__name__


def _whole(library: Any) -> Callable[[Any], Draft]:
    return lambda model: _draft("", library, model)


def _classifier(library: Any, name: str) -> Callable[[Any], Draft]:
    def draft(model: Any) -> Draft:
        inner = getattr(model, name)
        cls = _class(library, "Model")
        reason = f"is a {type(inner).__name__}" if plain_class(inner) is not cls else forward_changed(inner, cls)
        if reason is not None:
            refuse(name, f"it {reason}")
        return _draft(f"{name}.", library, inner)

    return draft


DRAFTERS: dict[type, Callable[[Any], Draft]] = {
    _class(library, kind): drafter
    for library, name in ((v1, "convnext"), (v2, "convnextv2"))
    for kind, drafter in (
        ("Model", _whole(library)),
        ("Backbone", _whole(library)),
        ("ForImageClassification", _classifier(library, name)),
    )
}
