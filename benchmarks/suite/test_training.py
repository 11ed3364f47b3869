"""One training step of the dense models: forward, cross entropy, backward. No optimiser, which is the same for all."""

from collections.abc import Callable

import pytest

from .cases import Case, Setting
from .module_cases import ModelCase


def cases(setting: Setting) -> list[Case]:
    """atto and tiny at batch 4 on a CPU; tiny and base at batch 64 on a GPU."""
    if setting.smoke:
        return [ModelCase("atto", 2, setting, backward=True, resolution=32, classes=10)]
    if setting.device == "cuda":
        return [ModelCase(size, 64, setting, backward=True) for size in ("tiny", "base")]
    return [ModelCase(size, 4, setting, backward=True) for size in ("atto", "tiny")]


@pytest.mark.cases(of=cases)
def test_training(report: Callable[[Case, str], None], case: Case, provider: str) -> None:
    report(case, provider)
