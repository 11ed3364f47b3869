"""A pre-training step of FCMAE, 60 % of the patches removed, beside the same mathematics on dense planes."""

from collections.abc import Callable

import pytest

from .cases import Case, Setting
from .module_cases import FcmaeCase


def cases(setting: Setting) -> list[Case]:
    """atto and tiny at batch 4 on a CPU; tiny and base at batch 64 on a GPU; GRN over the batch, as upstream."""
    if setting.smoke:
        return [FcmaeCase("atto", 2, setting, resolution=64, scope=scope) for scope in ("batch", "sample")]
    sizes, batch = (("tiny", "base"), 64) if setting.device == "cuda" else (("atto", "tiny"), 4)
    return [FcmaeCase(size, batch, setting) for size in sizes]


@pytest.mark.cases(of=cases)
def test_fcmae(report: Callable[[Case, str], None], case: Case, provider: str) -> None:
    report(case, provider)
