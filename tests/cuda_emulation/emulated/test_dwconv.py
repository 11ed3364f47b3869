"""The depthwise convolution's CUDA kernels, emulated: tiles, strips and chunks of all shapes, on several devices."""

import pytest
import torch

from convnextv2_fast.layouts import PatchLayout
from convnextv2_fast.testing import make
from tests.cuda_emulation.emulated.test_ops import BF16, F16, F32, judge

# whole planes of the last stages, planes of many tiles, ragged edges, one row, one column
PLANES = [(2, 14, 14, 96), (3, 7, 7, 64), (1, 28, 28, 32), (1, 23, 31, 16), (2, 1, 57, 8), (2, 57, 1, 40)]


@pytest.mark.parametrize("name", ["H100", "RTX 3090", "tiny"])
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("plane", PLANES, ids=str)
def test_planes(plane, dtype, name, device):
    device(name)
    judge(make("dwconv_layer_norm", *plane), dtype)


@pytest.mark.parametrize("name", ["H100", "tiny"])
@pytest.mark.parametrize("s", [8, 4, 2, 1])
@pytest.mark.parametrize("kept", [1, 3, 9])
def test_patches(kept, s, name, device):
    """FCMAE's tiles at its four stages: few, some, all of the patches."""
    device(name)
    mask = torch.argsort(torch.rand(2, 9), dim=1) >= kept
    layout = PatchLayout.from_mask(mask.float(), s, grid=(3, 3))
    problem = make("dwconv_layer_norm", 1, 1, 1, 40, "rows")
    problem.tensors["x"] = torch.randn(layout.rows, 40, dtype=torch.float64)
    problem.options["layout"] = layout
    judge(problem, F16)


@pytest.mark.parametrize("c", [1, 2, 31, 48, 352, 704, 1000, 2816])
@pytest.mark.parametrize("kind", ["dense", "site"])
def test_channels(c, kind):
    """One to many chunks, rows held in registers or read again, too wide to be normalised in the same kernel."""
    judge(make("dwconv_layer_norm", 1, 4, 7, c, kind), BF16)


@pytest.mark.parametrize("wants", ["x", "kernel", "bias"])
def test_some_gradients(wants):
    """The input's gradient alone is another kernel; with the parameters' alone nothing is written for the input."""
    whole, part = (make("sparse_dwconv", 2, 9, 8, 24, "rows").to(F32) for _ in range(2))
    for name, tensor in part.tensors.items():
        tensor.requires_grad_(name == wants)
    for problem in (whole, part):
        y = problem.public(backend="cuda")
        y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape))
    got, want = part.tensors[wants].grad, whole.tensors[wants].grad
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert all(t.grad is None for name, t in part.tensors.items() if name != wants)
