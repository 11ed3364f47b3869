"""What torch.compile's default mode makes of timm's or upstream's model: Inductor's kernels around cuDNN's convolutions
and the library's matrix products. Counted from how Inductor fuses: a reduction ends a kernel, a product is never part
of one, GELU is computed again rather than stored.

In u, rows x channels elements, a block moves beside its convolutions 27 u forward and 53 u backward.
"""

from __future__ import annotations

from . import measured, models, ops
from .chips import CHIPS
from .kernel import Kernel, Step
from .models import Stage
from .ops import WIDTH, Setting

# Instructions and special functions an element; not counted in Inductor's code, taken to be as those of the first
# kernels here, which also spent some on subnormal numbers.
GELU, SPECIAL = 29.4, 3.0


def cudnn(stage: Stage, what: str) -> Kernel:
    """cuDNN's depthwise convolution, "forward" or whole "backward": tiny's, measured on an H100, in proportion to the
    elements. It is far from memory's limit, so a chip with the same processors and faster memory gains nothing.

    Raises:
        ValueError: it has not been measured.
    """
    side, c = 56 >> (stage.number - 1), models.dimensions("tiny")[1][stage.number - 1]
    case = f"dwconv7x7-{side}x{side}x{c}-{what}"
    for row in measured.on(CHIPS["h100"], "ops"):
        if row.case == case and row.mode.startswith("cudnn") and row.dtype == "bfloat16" and row.ms and row.batch:
            seconds = row.ms / 1e3 * stage.plane.elements / (row.batch * side * side * c)
            count, launches = (2, 1) if what == "forward" else (3, 3)
            moved = count * stage.plane.elements * WIDTH
            return Kernel(f"cuDNN dwconv {what}", moved, waiting=seconds, launches=launches)
    raise ValueError(f"no committed result has {case} on cuDNN")


def units(name: str, count: float, elements: float, gelus: int = 0) -> Kernel:
    """A kernel of Inductor's that moves `count` u; `gelus`: how often it computes GELU for all hidden elements."""
    hidden = 4 * elements * gelus
    return Kernel(name, count * elements * WIDTH, instructions=GELU * hidden, special=SPECIAL * hidden)


def products(stage: Stage, name: str, count: int) -> tuple[Kernel, ...]:
    """Products between C and 4 C channels."""
    plane = stage.plane
    return (ops.product(name, plane.rows, plane.channels, 4 * plane.channels),) * count


def block(setting: Setting, stage: Stage) -> list[Step]:
    """A stage's blocks, forward."""
    n = stage.plane.elements
    weights = 8 * stage.plane.channels**2
    first = (cudnn(stage, "forward"), units("LayerNorm", 2, n))
    second = (
        *ops.casts(setting, 2, weights),
        *products(stage, "product 1", 1),
        units("GELU, sums", 4, n, gelus=1),
        units("norms", 0, n),
        units("GELU, scale", 8, n, gelus=1),
        *products(stage, "product 2", 1),
        units("residual", 3, n),
    )
    return [
        Step(stage.place, "dwconv_layer_norm", "forward", first, stage.depth),
        Step(stage.place, "mlp_grn", "forward", second, stage.depth),
    ]


def block_backward(setting: Setting, stage: Stage) -> list[Step]:
    """A stage's blocks, backward."""
    n = stage.plane.elements
    weights = 8 * stage.plane.channels**2
    first = (
        *products(stage, "products dg, dW2", 2),
        units("sum db2", 1, n),
        units("GRN's sums", 8, n, gelus=1),
        units("norms' gradients", 0, n),
        units("dh", 12, n, gelus=1),
        units("sum db1", 4, n),
        *products(stage, "products du, dW1", 2),
        *ops.casts(setting, 2, weights, back=True),
    )
    second = (
        units("LayerNorm's gradient", 3, n),
        units("LayerNorm's sums", 2, n),
        cudnn(stage, "backward"),
        units("residual's gradient", 3, n),
    )
    return [
        Step(stage.place, "mlp_grn", "backward", first, stage.depth),
        Step(stage.place, "dwconv_layer_norm", "backward", second, stage.depth),
    ]


def patches(stage: Stage, backward: bool = False) -> Step:
    """Stem or downsampling: a convolution that gathers its operand itself, and LayerNorm."""
    place = "stem" if stage.number == 1 else f"to {stage.place}"
    rows, inner, c = stage.plane.rows, stage.k**2 * stage.before, stage.plane.channels
    normed = rows * (c if stage.k == 4 else inner)
    if not backward:
        return Step(
            place, "patch_conv", "forward", (ops.product("convolution", rows, inner, c), units("norm", 2, normed))
        )
    count = 1 if stage.k == 4 else 2  # the image wants no gradient
    kernels = (
        *(ops.product("convolution's gradients", rows, inner, c) for _ in range(count)),
        units("sum of bias", 1, rows * c),
        units("norm's gradient", 3, normed),
        units("norm's sums", 2, normed),
    )
    return Step(place, "patch_conv", "backward", kernels)


def forward(setting: Setting, size: str, batch: int, resolution: int) -> list[Step]:
    """Inference, channels_last."""
    found = []
    for stage in models.stages(size, batch, resolution):
        found += [patches(stage), *block(setting, stage)]
    return [*found, models.head(setting, stage.plane)]


def training(setting: Setting, size: str, batch: int, resolution: int) -> list[Step]:
    """Forward, cross entropy, backward."""
    all_stages = models.stages(size, batch, resolution)
    found = [*forward(setting, size, batch, resolution), models.head(setting, all_stages[-1].plane, backward=True)]
    for stage in reversed(all_stages):
        found += [*block_backward(setting, stage), patches(stage, backward=True)]
    return found
