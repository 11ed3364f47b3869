"""A group of providers on a CPU, each alone in processes of its own, in turn (`convnextv2_fast.bench.alone`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from convnextv2_fast import UnsupportedInputError
from convnextv2_fast.bench import alone
from convnextv2_fast.bench.alone import Contender, Result
from convnextv2_fast.bench.peers import Unavailable
from convnextv2_fast.bench.worker import Failed, Subject, Turn

from . import measure, providers, serving
from .cases import Setting
from .measure import Outcome
from .module_cases import FcmaeCase, ModelCase

AloneCase = ModelCase | FcmaeCase
_KINDS: dict[str, tuple[type[AloneCase], tuple[str, ...]]] = {
    "model": (ModelCase, ("size", "batch", "backward", "resolution", "classes")),
    "fcmae": (FcmaeCase, ("size", "batch", "resolution", "scope", "init")),
}


def recipe(case: AloneCase) -> dict[str, Any]:
    """The case as JSON values, for :func:`cooked`."""
    _, names = _KINDS[case.kind]
    setting = case.setting
    fields = {"device": setting.device, "precision": setting.precision, "smoke": setting.smoke}
    return {"kind": case.kind, "setting": fields, "options": {name: getattr(case, name) for name in names}}


def cooked(found: Mapping[str, Any]) -> AloneCase:
    """The case of a recipe: the same weights and inputs in every process."""
    build, _ = _KINDS[found["kind"]]
    return build(setting=Setting(**found["setting"]), **found["options"])


def contender(case: AloneCase, name: str) -> Contender:
    """What a worker builds."""
    return Contender(f"{__name__}:{subject.__name__}", {"found": recipe(case), "name": name})


def subject(shared: Path, found: Mapping[str, Any], name: str) -> Subject:
    """A provider of a case, in a worker. The reference is computed by the first check that needs it."""
    case = cooked(found)
    case.shared = shared
    reference = shared / "expected.pt"
    candidate = providers.build(name, case)

    def check() -> dict[str, Any]:
        known = reference.exists()
        if known:
            case.expected = torch.load(reference)
        try:
            told = measure.checked(name, candidate, case)
        except (Unavailable, UnsupportedInputError, Failed):
            raise
        except Exception as error:
            skipped = measure.uncompiled(error)
            if skipped is None:
                raise
            raise Unavailable(skipped.reason) from error
        if not known and "expected" in vars(case):
            torch.save(case.expected, reference)
        return told

    return Subject(candidate.run, check)


def outcome(case: AloneCase, name: str, result: Result) -> Outcome:
    """A result of the workers, as that of a group in one process."""
    if result.error is not None:
        status = "skipped" if result.kind == "unavailable" else "failed"
        return Outcome(status, result.error, wrong=result.kind == "wrong")
    if not result.timing.seconds:
        return Outcome("skipped", "interrupted")
    told = serving.settings(name, case) if isinstance(case, ModelCase) else None
    rates = measure.figures(case, result.timing.median, None)
    return Outcome("ok", timing=result.timing, info={**result.info, **rates, "settings": told})


def measure_apart(
    case: AloneCase, wanted: Iterable[str], *, turns: int, turn: Turn, neighbour: bool = False
) -> dict[str, Outcome]:
    """Checks every wanted provider, then times those that passed; `neighbour`: beside a busy process.

    An outcome's timing has one number a turn: the median of that process."""
    contenders = {name: contender(case, name) for name in wanted}
    with alone.folder() as shared:
        found = alone.in_turn(contenders, shared, turns=turns, turn=turn, neighbour=neighbour)
    return {name: outcome(case, name, result) for name, result in found.items()}
