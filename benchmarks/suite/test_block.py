"""One ConvNeXt V2 block, forward alone and forward with backward."""

from collections.abc import Callable

import pytest

from .cases import Case, Setting
from .module_cases import BlockCase
from .problems import Shape


def cases(setting: Setting) -> list[Case]:
    """Stages 1 and 3 of tiny; batch 4 on a CPU, 64 on a GPU."""
    batch = 64 if setting.device == "cuda" else 4
    shapes = [Shape(2, 7, 7, 8)] if setting.smoke else [Shape(batch, 56, 56, 96), Shape(batch, 14, 14, 384)]
    return [BlockCase(shape, setting, backward) for shape in shapes for backward in (False, True)]


@pytest.mark.cases(of=cases)
def test_block(report: Callable[[Case, str], None], case: Case, provider: str) -> None:
    report(case, provider)
