"""Whole passes of the dense models: inference, and a training step without its optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..rivals.sizes import SIZES
from . import block as one_operator
from . import ops
from .depthwise import FLOAT, Plane
from .kernel import Kernel, Step
from .ops import WIDTH, Setting

CLASSES = 1000


@dataclass(frozen=True)
class Stage:
    """`depth` blocks on planes, behind a patch convolution from `before` channels."""

    number: int
    depth: int
    plane: Plane
    before: int

    @property
    def place(self) -> str:
        return f"stage {self.number}"

    @property
    def k(self) -> int:
        """Edge of the patches before it: the stem's, or downsampling's."""
        return 4 if self.number == 1 else 2


def dimensions(size: str) -> tuple[Sequence[int], Sequence[int]]:
    """Depths and channels of the four stages.

    Raises:
        ValueError: no such model.
    """
    if size not in SIZES:
        raise ValueError(f"unknown model {size!r}: choose one of {', '.join(SIZES)}")
    return SIZES[size]


def stages(size: str, batch: int, resolution: int, visible: float = 1.0, sparse: bool = False) -> list[Stage]:
    """The four stages; with `sparse` planes `visible` of whose patches, 32 pixels wide, are there.

    Raises:
        ValueError: no such model, or a batch or resolution that no image has.
    """
    depths, dims = dimensions(size)
    if batch < 1 or resolution < 32:
        raise ValueError(f"batch must be 1 or more and the resolution 32 pixels or more, not {batch} and {resolution}")
    found, before, side = [], 3, resolution // 4
    for i, (depth, c) in enumerate(zip(depths, dims, strict=True)):
        plane = Plane(batch, side, c, visible, 8 >> i if sparse else 0)
        found.append(Stage(i + 1, depth, plane, before))
        side, before = side // 2, c
    return found


def images(setting: Setting, batch: int, resolution: int) -> Step:
    """Images come in NCHW and are brought to rows; under autocast they are cast before."""
    pixels = batch * 3 * resolution**2
    cast = (ops.copy("cast", pixels, FLOAT, WIDTH),) if setting.amp else ()
    return Step("stem", "images", "forward", (*cast, ops.copy("NCHW to rows", pixels)))


def patches(setting: Setting, stage: Stage, resolution: int, backward: bool = False) -> Step:
    """The patch convolution before a stage."""
    place = "stem" if stage.number == 1 else f"to {stage.place}"
    args = (setting, stage.plane.rows, stage.before, stage.plane.channels, stage.k)
    if backward:
        return ops.patch_conv_backward(*args).at(place)
    side = resolution if stage.number == 1 else 2 * stage.plane.side
    case = f"patch_conv-{side}x{side}x{stage.before}to{stage.plane.channels}k{stage.k}-forward"
    return ops.patch_conv(*args, case=case).at(place)


def block(setting: Setting, stage: Stage, groups: int, case: bool = True) -> list[Step]:
    """A stage's blocks, forward; `groups` of rows have a norm of GRN each."""
    plane = stage.plane
    if not setting.composed:
        return [step.at(stage.place, stage.depth) for step in one_operator.forward(setting, plane, groups, case)]
    name = f"mlp_grn-{plane.sample}-forward" if case else ""
    steps = (ops.dwconv_layer_norm(setting, plane), ops.mlp_grn(setting, plane.rows, groups, plane.channels, name))
    return [step.at(stage.place, stage.depth) for step in steps]


def block_backward(setting: Setting, stage: Stage, groups: int) -> list[Step]:
    """A stage's blocks, backward."""
    plane = stage.plane
    if not setting.composed:
        return [step.at(stage.place, stage.depth) for step in one_operator.backward(setting, plane, groups)]
    steps = (
        ops.mlp_grn_backward(setting, plane.rows, groups, plane.channels),
        ops.dwconv_layer_norm_backward(setting, plane),
    )
    return [step.at(stage.place, stage.depth) for step in steps]


def head(setting: Setting, plane: Plane, backward: bool = False) -> Step:
    """Mean over the plane, LayerNorm, linear layer; with `backward` also the loss, whose tensors are small."""
    c, weights = plane.channels, plane.channels * CLASSES
    if not backward:
        kernels = (
            Kernel("mean", plane.elements * WIDTH),
            copies(setting, "LayerNorm", 4 * plane.batch * c, 3 if setting.amp else 1),
            *ops.casts(setting, 2, weights),
            ops.product("linear", plane.batch, c, CLASSES),
        )
        return Step("head", "head", "forward", kernels)
    kernels = (
        copies(setting, "loss", 12 * plane.batch * CLASSES, 9),
        ops.product("products", plane.batch, CLASSES, c),
        ops.product("products", plane.batch, CLASSES, c),
        *ops.casts(setting, 2, weights, back=True),
        copies(setting, "LayerNorm, bias", 6 * plane.batch * c, 5),
        ops.copy("mean's gradient", 2 * plane.elements, launches=2),
    )
    return Step("head", "head and loss", "backward", kernels)


def copies(setting: Setting, name: str, elements: float, launches: int) -> Kernel:
    """Some small kernels together, `elements` read or written."""
    return Kernel(name, elements * setting.parameter, launches=launches)


def forward(setting: Setting, size: str, batch: int, resolution: int) -> list[Step]:
    """Inference."""
    found = [images(setting, batch, resolution)]
    for stage in stages(size, batch, resolution):
        found.append(patches(setting, stage, resolution))
        found += block(setting, stage, batch)
    return [*found, head(setting, stage.plane)]


def training(setting: Setting, size: str, batch: int, resolution: int) -> list[Step]:
    """Forward, cross entropy, backward."""
    all_stages = stages(size, batch, resolution)
    found = [*forward(setting, size, batch, resolution), head(setting, all_stages[-1].plane, backward=True)]
    for stage in reversed(all_stages):
        found += block_backward(setting, stage, batch)
        found.append(patches(setting, stage, resolution, backward=True))
    return found
