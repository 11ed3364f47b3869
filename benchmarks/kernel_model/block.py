"""What a whole block runs as one operator for each direction, as csrc/torch/block_cuda.cpp and block_backward_cuda.cpp
do it. Its two halves are steps of their own, under the names of the ops that they stand for.
"""

from __future__ import annotations

from . import depthwise, ops
from .depthwise import FLOAT, TAPS, Plane
from .kernel import Kernel, Step
from .ops import FINISH, SCALE, WIDTH, Setting

APART = 768  # channels from which a sparse convolution is not fused with LayerNorm; counted for tiny's four stages


def forward(setting: Setting, plane: Plane, groups: int, case: bool = True) -> tuple[Step, Step]:
    """Nine launches, or eight where LayerNorm is fused with the convolution. `groups` of rows have a norm each."""
    rows, c = plane.rows, plane.channels
    k, hidden, weights = 4 * c, 4 * plane.elements, 4 * c * c
    cast = TAPS * c * (setting.parameter + FLOAT) + (2 * weights * (FLOAT + WIDTH) if setting.amp else 0)
    first = [Kernel("taps to float32, casts of weights", cast)]
    unit = plane.elements * WIDTH
    if plane.patch and c < APART:
        first.append(depthwise.multiply_adds(plane, 3 * unit, 1, "sparse dwconv + layer_norm"))
    elif plane.patch:
        first += [depthwise.multiply_adds(plane, 2 * unit, 1, "sparse dwconv"), ops.norm_forward(plane.elements)]
    else:
        norm = ops.norm_forward(plane.elements, f"layer_norm-{plane.sample}-forward")
        first += [depthwise.convolution(plane, WIDTH, setting.chip), norm]

    per_group = groups * k * FLOAT
    parts = ops.splits(rows, groups, k, setting.chip) * per_group
    folds = ops.folds(rows, groups, c)
    second = [
        ops.product("product 1", rows, c, k),
        ops.hidden_pass(setting, "GELU, sums", hidden, 2, setting.gelu.activate, parts),
        Kernel("norms, scales", parts + 2 * per_group + (weights * WIDTH if folds else 0)),
    ]
    if folds:
        moved, computed = (groups + 1) * weights * WIDTH + per_group, SCALE * groups * weights
        second.append(Kernel("scaled weights", moved, instructions=computed))
        second.append(ops.product("product 2", rows, k, c, groups * weights))
    else:
        second.append(Kernel("scale", 2 * hidden * WIDTH + per_group, instructions=SCALE * hidden))
        second.append(ops.product("product 2", rows, k, c))
    second.append(Kernel("bias, residual", 3 * unit, instructions=FINISH * plane.elements))
    names = [f"{op}-{plane.sample}-forward" if case else "" for op in ("dwconv_layer_norm", "mlp_grn")]
    return (
        Step("", "dwconv_layer_norm", "forward", tuple(first), case="" if plane.patch else names[0]),
        Step("", "mlp_grn", "forward", tuple(second), case=names[1]),
    )


def backward(setting: Setting, plane: Plane, groups: int) -> tuple[Step, Step]:
    """Thirteen launches, on sparse planes twelve. The residual's gradient is added where the input's is written, and
    all sums over partial sums are one launch."""
    rows, c, chip = plane.rows, plane.channels, setting.chip
    k, hidden, unit = 4 * c, 4 * plane.elements, plane.elements * WIDTH
    per_group, columns = groups * k * FLOAT, ops.splits(rows, 1, c, chip) * c * FLOAT
    parts = ops.splits(rows, groups, k, chip) * per_group
    first = (
        Kernel("sums of db2", unit + columns),
        ops.product("products dg, h", rows, c, k),
        ops.product("products dg, h", rows, c, k),
        ops.hidden_pass(setting, "sums over dg, h", hidden, 2, setting.gelu.products, 2 * parts),
        Kernel("norms' gradients", 2 * parts + 5 * per_group),
        ops.hidden_pass(setting, "dh, g", hidden, 4, setting.gelu.backward, parts + 2 * per_group),
        weight_gradient(setting, "product dW1", plane),
        weight_gradient(setting, "product dW2", plane),
        ops.product("product du", rows, k, c),
    )
    norm, norm_sums = ops.norm_backward(setting, plane.elements, c)
    if plane.patch:
        both, conv_sums = depthwise.sparse_backward(plane, WIDTH, chip, addend=True)
        convolution: tuple[Kernel, ...] = (both,)
    else:
        taps, conv_sums = depthwise.taps_gradient(plane, WIDTH, chip)
        convolution = (depthwise.convolution(plane, WIDTH, chip, "dgrad", addend=True), taps)
    of_mlp = 2 * parts + per_group + columns
    sums = Kernel("all sums", norm_sums.moved + conv_sums.moved + of_mlp)
    return (
        Step("", "mlp_grn", "backward", first),
        Step("", "dwconv_layer_norm", "backward", (norm, *convolution, sums)),
    )


def weight_gradient(setting: Setting, name: str, plane: Plane) -> Kernel:
    """The product that makes it writes it in the parameter's type, so no cast follows."""
    c = plane.channels
    kernel = ops.product(name, plane.rows, c, 4 * c, weights=0)
    return Kernel(name, kernel.moved + 4 * c * c * setting.parameter, kernel.flops)
