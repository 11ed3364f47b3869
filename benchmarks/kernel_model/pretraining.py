"""A step of FCMAE: the encoder on the patches that are there, decoder and loss on the whole plane. GRN's norms over the
batch in the encoder, as upstream has it by default."""

from __future__ import annotations

from . import models, ops
from .depthwise import FLOAT, Plane
from .kernel import Kernel, Step
from .models import Stage
from .ops import WIDTH, Setting

PATCH, DECODER, KEPT = 32, 512, 0.4  # pixels; channels; the share that stays visible
INDEX = 8  # bytes of a site's number


def layouts(stages: list[Stage]) -> Step:
    """The patches' numbers from the mask, then the sites' and the map back, for every stage. Made once for a stage."""
    kernels = [Kernel("patches", 0, launches=9)]
    for stage in stages:
        sites = stage.plane.batch * stage.plane.side**2
        kernels.append(Kernel("sites", 2 * stage.plane.rows * INDEX + 2 * sites * FLOAT, launches=18))
    return Step("stem", "layouts", "forward", tuple(kernels))


def pointwise(name: str, rows: int, inner: int, outer: int, back: int = 1) -> tuple[Kernel, ...]:
    """A 1x1 convolution, or with `back` 2 its gradients of input and weight."""
    return (ops.product(name, rows, inner, outer),) * back


def decoder(setting: Setting, encoded: Plane, backward: bool = False) -> list[Step]:
    """From the encoder's rows to a prediction for every patch."""
    n, sites = encoded.batch, encoded.batch * encoded.side**2
    dense, inner, pixels = sites * encoded.channels, sites * DECODER, 3 * PATCH**2
    plane = Plane(n, encoded.side, DECODER)
    projected, predicted = encoded.channels * DECODER, DECODER * pixels
    if not backward:
        before = (
            ops.copy("rows to planes", 2 * dense, launches=2),
            *ops.casts(setting, 4, projected + predicted),
            *pointwise("proj", sites, encoded.channels, DECODER),
            ops.copy("mask token", 6 * inner, launches=8),
        )
        block = models.block(setting, Stage(0, 1, plane, 0), n, case=False)
        after = (*pointwise("pred", sites, DECODER, pixels), ops.copy("prediction to rows", sites * pixels))
        return [
            Step("decoder", "in", "forward", before),
            *(step.at("decoder") for step in block),
            Step("decoder", "out", "forward", after),
        ]
    after = (
        *pointwise("pred", sites, DECODER, pixels, back=2),
        Kernel("sum of bias", sites * pixels * WIDTH),
        *ops.casts(setting, 4, projected + predicted, back=True),
    )
    before = (
        ops.copy("mask token", 4 * inner, launches=5),
        *pointwise("proj", sites, encoded.channels, DECODER, back=2),
        Kernel("sum of bias", inner * WIDTH),
        ops.copy("planes to rows", 2 * dense, launches=2),
    )
    block = models.block_backward(setting, Stage(0, 1, plane, 0), n)
    return [
        Step("decoder", "out", "backward", after),
        *(step.at("decoder") for step in block),
        Step("decoder", "in", "backward", before),
    ]


def loss(batch: int, resolution: int) -> tuple[Step, Step]:
    """Squared error of all pixels: bytes of an element that the forward's and the backward's kernels move."""
    pixels = batch * 3 * (resolution // PATCH * PATCH) ** 2
    cast_and_order, as_float, difference, norm = 6 + 4, 6, 2 + 4 + 4, 4
    forward = Kernel("targets, squares", pixels * (cast_and_order + as_float + difference + norm), launches=9)
    backward = Kernel("gradient", pixels * (8 + 6), launches=5)
    return Step("loss", "loss", "forward", (forward,)), Step("loss", "loss", "backward", (backward,))


def step(setting: Setting, size: str, batch: int, resolution: int) -> list[Step]:
    """Forward and backward.

    Raises:
        ValueError: as `models.stages`; or patches do not divide the resolution; or none of them would be kept.
    """
    side = resolution // PATCH
    kept = int(side**2 * KEPT)
    if resolution % PATCH or not kept:
        raise ValueError(f"FCMAE wants a multiple of {PATCH} pixels, and 2 x 2 patches or more, not {resolution}")
    stages = models.stages(size, batch, resolution, kept / side**2, sparse=True)
    found = [layouts(stages), models.images(setting, batch, resolution)]
    for stage in stages:
        found.append(models.patches(setting, stage, resolution))
        found += models.block(setting, stage, groups=1, case=False)
    encoded = stages[-1].plane
    forward_loss, backward_loss = loss(batch, resolution)
    found += [*decoder(setting, encoded), forward_loss, backward_loss, *decoder(setting, encoded, backward=True)]
    for stage in reversed(stages):
        found += models.block_backward(setting, stage, groups=1)
        found.append(models.patches(setting, stage, resolution, backward=True))
    return found
