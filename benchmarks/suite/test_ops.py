"""Every op, forward alone and forward with backward, on the shapes it has in convnextv2_tiny."""

from collections.abc import Callable

import pytest

from convnextv2_fast.testing import KERNEL_OPS

from .cases import Case, OpCase, Setting
from .problems import Shape

# stages 1 and 3 of tiny; patch_conv: stem and second downsampling; sparse: FCMAE's planes (tiles of 8 and of 2)
SHAPES: dict[str, list[Shape]] = {
    "patch_conv": [Shape(1, 224, 224, 3, 96, 4), Shape(1, 56, 56, 96, 192, 2)],
    "sparse_dwconv": [Shape(1, 56, 56, 96), Shape(1, 14, 14, 384)],
}
USUAL = [Shape(1, 56, 56, 96), Shape(1, 14, 14, 384)]
TINY: dict[str, list[Shape]] = {"patch_conv": [Shape(1, 16, 16, 3, 8, 4)], "sparse_dwconv": [Shape(1, 14, 14, 8)]}


def cases(setting: Setting) -> list[Case]:
    """Batch 4 on a CPU, 64 on a GPU; with autocast the ops are called in bfloat16."""
    found: list[Case] = []
    precision = "bfloat16" if setting.precision == "amp" else setting.precision
    setting = Setting(setting.device, precision, setting.smoke)
    batch = 64 if setting.device == "cuda" else 4
    for op in KERNEL_OPS:
        shapes = TINY.get(op, [Shape(1, 7, 7, 8)]) if setting.smoke else SHAPES.get(op, USUAL)
        for shape in shapes:
            sized = Shape(2 if setting.smoke else batch, shape.h, shape.w, shape.c, shape.c_out, shape.k)
            found += [OpCase(op, sized, setting, backward) for backward in (False, True)]
    return found


@pytest.mark.cases(of=cases)
def test_op(report: Callable[[Case, str], None], case: Case, provider: str) -> None:
    report(case, provider)
