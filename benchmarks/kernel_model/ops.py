"""What one call of an op runs on the CUDA backend, kernel by kernel, as `src/convnextv2_fast/ops/*/cuda.py` does it.

u stands for rows x channels elements of an op's input. K, the hidden channels, are 4 C.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from . import depthwise
from .chips import Chip
from .depthwise import FLOAT, TAPS, Plane
from .kernel import NORM_SHARE, STREAM_SHARE, Kernel, Step

WIDTH = 2  # bytes of an activation, bfloat16

# Instructions an element and special-function results an element, counted in the machine code for sm_90 (nvcc 13.0) of
# the loops over 16-bit vectors: GELU takes an exponential and a reciprocal.
ACTIVATE, PRODUCTS, BACKWARD, SPECIAL = 19.4, 21.4, 30.1, 2.0
SCALE, FINISH = 5.1, 9.3


@dataclass(frozen=True)
class Gelu:
    """What an element costs in the kernels that compute GELU: instructions in each, and special-function results."""

    activate: float
    products: float
    backward: float
    special: float


COUNTED = Gelu(ACTIVATE, PRODUCTS, BACKWARD, SPECIAL)
EARLIER = Gelu(29.4, 31.6, 38.1, 3.0)  # of the kernels in all committed results so far


@dataclass(frozen=True)
class Setting:
    """Where and how.

    Attributes:
        amp: whether float32 parameters are cast at each call, or all is bfloat16.
        composed: whether a block is two ops, as it was when the committed results were taken; else it is one operator
            for each direction.
    """

    chip: Chip
    amp: bool
    composed: bool = False
    gelu: Gelu = COUNTED

    @property
    def parameter(self) -> int:
        """Bytes of a parameter."""
        return 4 if self.amp else 2


def copy(name: str, elements: float, read: int = WIDTH, written: int = WIDTH, launches: int = 1) -> Kernel:
    """An elementwise copy or cast."""
    return Kernel(name, elements * (read + written), launches=launches)


def casts(setting: Setting, weights: int, elements: float, back: bool = False) -> tuple[Kernel, ...]:
    """Of weights to bfloat16, or of their gradients `back`; none where the parameters are bfloat16."""
    if not setting.amp:
        return ()
    name = "casts of gradients" if back else "casts of weights"
    return (Kernel(name, elements * (FLOAT + WIDTH), launches=weights),)


def product(name: str, rows: float, inner: int, outer: int, weights: float | None = None) -> Kernel:
    """A matrix product `[rows, inner] x [inner, outer]`; `weights`: elements of the second operand, if others."""
    second = inner * outer if weights is None else weights
    return Kernel(name, (rows * (inner + outer) + second) * WIDTH, 2 * rows * inner * outer)


def hidden_pass(setting: Setting, name: str, hidden: float, tensors: int, instructions: float, beside: float) -> Kernel:
    """One pass over `hidden` elements of `tensors` tensors with a GELU for each element; `beside`: bytes of sums."""
    moved = tensors * hidden * WIDTH + beside
    return Kernel(name, moved, instructions=instructions * hidden, special=setting.gelu.special * hidden)


def norm_forward(elements: float, case: str = "") -> Kernel:
    """LayerNorm of so many elements."""
    return Kernel("layer_norm", 2 * elements * WIDTH, share=NORM_SHARE, case=case)


def norm_backward(setting: Setting, elements: float, channels: int) -> tuple[Kernel, Kernel]:
    """LayerNorm's gradient from its output's and its input, and the sums of the parameters' gradients."""
    parts = 2 * setting.chip.processors * 2 * channels * FLOAT  # as many blocks as fit twice
    return (
        Kernel("layer_norm backward", 3 * elements * WIDTH + parts, share=NORM_SHARE),
        Kernel("its sums", parts),
    )


def dwconv_layer_norm(setting: Setting, plane: Plane) -> Step:
    """Convolution, then LayerNorm: on dense planes two kernels, on sparse ones a single one, which also keeps z."""
    if plane.patch:
        kernel = depthwise.multiply_adds(plane, 3 * plane.elements * WIDTH, 1, "sparse dwconv + layer_norm")
        return Step("", "dwconv_layer_norm", "forward", (kernel,))
    taps = copy("taps to float32", TAPS * plane.channels, setting.parameter, FLOAT)
    kernels = (
        taps,
        depthwise.convolution(plane, WIDTH, setting.chip),
        norm_forward(plane.elements, f"layer_norm-{plane.sample}-forward"),
    )
    return Step("", "dwconv_layer_norm", "forward", kernels, case=f"dwconv_layer_norm-{plane.sample}-forward")


def dwconv_layer_norm_backward(setting: Setting, plane: Plane) -> Step:
    """Gradients of input and parameters, and the residual's added to the input's."""
    kernels = norm_backward(setting, plane.elements, plane.channels)
    if plane.patch:
        kernels += depthwise.sparse_backward(plane, WIDTH, setting.chip)
    else:
        dgrad = depthwise.convolution(plane, WIDTH, setting.chip, "dgrad")
        kernels += (dgrad, *depthwise.taps_gradient(plane, WIDTH, setting.chip))
        kernels += (copy("taps' gradient", TAPS * plane.channels, FLOAT, 2 * FLOAT, launches=2),)
    kernels += (Kernel("residual's gradient added", 3 * plane.elements * WIDTH),)
    return Step("", "dwconv_layer_norm", "backward", kernels)


def splits(rows: int, groups: int, columns: int, chip: Chip) -> int:
    """Blocks that share a group's rows, of csrc/cuda/common/groups.cuh with vectors of 8."""
    lanes = 1
    while lanes < 32 and lanes * 8 < columns:
        lanes *= 2
    column_blocks = ceil(columns / (lanes * 8))
    wanted = ceil(8 * chip.processors / (groups * column_blocks))
    return max(1, min(wanted, rows // groups // (256 // lanes * 4)))


def folds(rows: int, groups: int, c: int) -> bool:
    """Whether GRN's scale goes into a copy of the second weight for each group, as `folds` in ops/_mlp_grn/cuda.py."""
    return rows // groups >= 2 * c


def mlp_grn(setting: Setting, rows: int, groups: int, c: int, case: str = "") -> Step:
    """Product, GELU and sums, scale, product, residual; `groups` of rows have a norm each."""
    k, hidden, weights = 4 * c, 4 * c * rows, 4 * c * c
    per_group = groups * k * FLOAT
    parts = splits(rows, groups, k, setting.chip) * per_group
    kernels = [
        *casts(setting, 2, 2 * weights),
        product("product 1", rows, c, k),
        hidden_pass(setting, "GELU, sums", hidden, 2, setting.gelu.activate, parts),
        Kernel("sums' sums", parts + per_group),
        Kernel("norms to scales", 3 * per_group),
    ]
    if folds(rows, groups, c):
        kernels += [
            Kernel("scaled weights", (groups + 1) * weights * WIDTH + per_group, instructions=SCALE * groups * weights),
            product("product 2", rows, k, c, groups * weights),
            copy("weights to float32", weights, WIDTH, FLOAT, launches=1 if setting.amp else 3),  # or b2, beta too
            Kernel("bias", weights * FLOAT, launches=2),
        ]
    else:
        kernels += [
            Kernel("scale", 2 * hidden * WIDTH + per_group, instructions=SCALE * hidden),
            product("product 2", rows, k, c),
        ]
    kernels.append(Kernel("bias, residual", 3 * rows * c * WIDTH, instructions=FINISH * rows * c))
    return Step("", "mlp_grn", "forward", tuple(kernels), case=case)


def mlp_grn_backward(setting: Setting, rows: int, groups: int, c: int) -> Step:
    """The hidden tensor again, two passes over it, five products."""
    k, hidden, weights = 4 * c, 4 * c * rows, 4 * c * c
    per_group = groups * k * FLOAT
    parts = splits(rows, groups, k, setting.chip) * per_group
    kernels = (
        product("products dg, h", rows, c, k),
        product("products dg, h", rows, c, k),
        hidden_pass(setting, "sums over dg, h", hidden, 2, setting.gelu.products, 2 * parts),
        Kernel("sums' sums", 2 * (parts + per_group), launches=2),
        Kernel("norms' gradients", 5 * per_group),
        hidden_pass(setting, "dh, g", hidden, 4, setting.gelu.backward, parts + 2 * per_group),
        Kernel("parameters' sums", parts + 2 * per_group, launches=3),
        product("product du", rows, k, c),
        product("product dW1", rows, k, c),
        product("product dW2", rows, k, c),
        Kernel("sum db2", rows * c * WIDTH),
        *casts(setting, 2, 2 * weights, back=True),
    )
    return Step("", "mlp_grn", "backward", kernels)


def patch_conv(setting: Setting, rows: int, c_in: int, c_out: int, k: int, case: str = "") -> Step:
    """Stem (k 4: product, then LayerNorm) or downsampling (k 2: LayerNorm, then product); `rows` of the result."""
    wide = k * k * c_in
    gathered = 2 * rows * wide * WIDTH
    stem = k == 4
    if setting.composed:
        weight: tuple[Kernel, ...] = (
            copy("weight as a matrix", wide * c_out, setting.parameter, setting.parameter),
            *casts(setting, 2, wide * c_out),  # and the bias's
        )
    else:
        weight = (copy("weight as a matrix, casts", wide * c_out, setting.parameter, WIDTH),)
    kernels = (
        *weight,
        Kernel("gather" if stem else "layer_norm, gather", gathered, share=STREAM_SHARE if stem else NORM_SHARE),
        product("product", rows, wide, c_out),
    )
    if stem:
        kernels += (norm_forward(rows * c_out),)
    return Step("", "patch_conv", "forward", kernels, case=case)


def patch_conv_backward(setting: Setting, rows: int, c_in: int, c_out: int, k: int) -> Step:
    """The stem's input wants no gradient; the blocks are gathered again."""
    wide = k * k * c_in
    stem = k == 4
    norm, norm_sums = norm_backward(setting, rows * (c_out if stem else wide), c_out if stem else c_in)
    gathered = Kernel("gather again", 2 * rows * wide * WIDTH, share=STREAM_SHARE if stem else NORM_SHARE)
    columns = Kernel("sum of bias", rows * c_out * WIDTH)
    to_input = (product("product dx", rows, c_out, wide), copy("scatter", rows * wide))
    if setting.composed:
        weight = (*casts(setting, 1, wide * c_out, back=True), copy("weight's gradient", wide * c_out, FLOAT, FLOAT))
    else:
        weight = (copy("weight's gradient", wide * c_out, setting.parameter, setting.parameter),)
    kernels = (gathered, product("product dW", rows, wide, c_out), columns, *weight)
    if stem:
        kernels = (norm, norm_sums, *kernels)
    else:
        kernels = (*kernels, *to_input, norm, norm_sums)
    return Step("", "patch_conv", "backward", kernels)
