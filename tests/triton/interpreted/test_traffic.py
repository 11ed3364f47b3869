"""Activation traffic of every op, in units of T x C elements; the table of docs/triton.md. It may shrink, not grow."""

import pytest
import torch

from convnextv2_fast.testing import KERNEL_OPS, make
from tests.triton.traffic import watch

N, H, W, C = 2, 14, 14, 64
T = N * H * W

# forward (unique, issued), then forward and backward with all gradients (unique, issued)
LIMITS: dict[str, tuple[float, float, float, float]] = {
    "dwconv_layer_norm": (2.00, 10.29, 10.00, 34.86),
    "mlp_grn materialize": (11.00, 12.00, 23.00, 28.00),
    "mlp_grn recompute": (4.00, 5.00, 16.00, 21.00),
    "mlp_grn chunked": (11.00, 12.00, 23.00, 28.00),
    "grn": (3.00, 3.00, 8.00, 8.00),
    "layer_norm": (2.00, 2.00, 5.00, 5.00),
    "patch_conv": (2.25, 2.25, 9.25, 9.25),
    "sparse_dwconv": (2.00, 10.29, 6.00, 30.86),
}


def call(name):
    op, _, strategy = name.partition(" ")
    if op == "sparse_dwconv":
        problem = make(op, N, H, W, C, "rows")
    else:
        problem = make(op, N, H, W, C)
    problem.tensors.pop("row_scale", None)
    if op == "patch_conv":
        problem.tensors["weight"] = torch.randn(C, C, 2, 2, dtype=torch.float64) / C
        problem.tensors["bias"] = torch.randn(C, dtype=torch.float64)
    extra = {"strategy": strategy} if strategy else {}
    return problem, extra


def measure(name, backward):
    problem, extra = call(name)
    leaves = problem.to(torch.float16, requires_grad=backward)
    with watch({T, T // 4}) as found, torch.set_grad_enabled(backward):
        y = leaves.public(backend="triton", **extra)
        if backward:
            y.backward(torch.ones_like(y))
    unit = T * C * 2
    return found.unique / unit, found.issued / unit


@pytest.mark.parametrize("name", LIMITS)
def test_traffic(name):
    forward, both = measure(name, False), measure(name, True)
    got = tuple(round(value, 2) for value in (*forward, *both))
    assert all(value <= limit for value, limit in zip(got, LIMITS[name], strict=True)), f"{name}: {got}"


NAMES = [
    "dwconv_layer_norm",
    "mlp_grn materialize",
    "mlp_grn recompute",
    "mlp_grn chunked",
    "grn",
    "layer_norm",
    "patch_conv",
    "sparse_dwconv",
]


def test_every_op_is_counted():
    assert list(LIMITS) == NAMES
    assert {name.partition(" ")[0] for name in NAMES} == set(KERNEL_OPS)


if __name__ == "__main__":  # prints the table
    for name in NAMES:
        print(f'    "{name}": ({", ".join(f"{v:.2f}" for v in (*measure(name, False), *measure(name, True)))}),')
