"""Inference of the dense models."""

from collections.abc import Callable

import pytest

from .cases import Case, Setting
from .module_cases import ModelCase


def cases(setting: Setting) -> list[Case]:
    """atto and tiny at batch 1 and 8, base at batch 1 on a CPU; tiny and base at batch 1 and 128 on a GPU."""
    if setting.smoke:
        return [ModelCase("atto", 2, setting, resolution=32, classes=10)]
    if setting.device == "cuda":
        return [ModelCase(size, batch, setting) for size in ("tiny", "base") for batch in (1, 128)]
    small = [ModelCase(size, batch, setting) for size in ("atto", "tiny") for batch in (1, 8)]
    return [*small, ModelCase("base", 1, setting)]


@pytest.mark.cases(of=cases)
def test_inference(report: Callable[[Case, str], None], case: Case, provider: str) -> None:
    report(case, provider)
