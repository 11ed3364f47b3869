"""The CUDA kernels of layer_norm and patch_conv, emulated: all widths, tables of every kind, words of any size."""

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast.layouts import PatchLayout
from convnextv2_fast.testing import Problem, make
from tests.cuda_emulation.emulated.test_ops import BF16, F16, F32, judge


@pytest.mark.parametrize("name", ["H100", "tiny"])
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("c", [1, 2, 7, 8, 40, 129, 352, 1000, 1024, 1408, 2816])
def test_layer_norm_widths(c, dtype, name, device):
    """From several rows a warp, kept in registers, to a row a block, read again; rows that fill no block."""
    device(name)
    judge(make("layer_norm", 3, 5, 7, c), dtype)


def test_layer_norm_of_a_large_mean():
    problem = make("layer_norm", 1, 2, 3, 96)
    problem.tensors["x"] = problem.tensors["x"] + 1000.0
    judge(problem, F32)


def stem(n, h, w, c_in, c_out, k, norm):
    g = torch.Generator().manual_seed(3)

    def rand(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    tensors = {"x": rand(n, h, w, c_in), "weight": rand(c_out, c_in, k, k) / (c_in * k * k) ** 0.5, "bias": rand(c_out)}
    if norm:
        width = c_in if norm == "before" else c_out
        tensors |= {f"norm_{norm}_weight": rand(width), f"norm_{norm}_bias": rand(width)}
    return Problem("patch_conv", tensors)


IMAGES = [(2, 8, 8, 3, 4), (1, 9, 11, 3, 4), (2, 4, 6, 1, 2), (1, 8, 5, 5, 2), (1, 6, 6, 40, 2), (1, 4, 4, 352, 2)]


@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
@pytest.mark.parametrize("norm", ["before", "after", None])
@pytest.mark.parametrize(
    ("n", "h", "w", "c_in", "k"),
    [
        (2, 8, 8, 3, 4),
        (1, 9, 11, 3, 4),
        (2, 4, 6, 1, 2),
        (1, 8, 5, 5, 2),
        (1, 6, 6, 40, 2),
        (1, 4, 4, 352, 2),
        (1, 7, 7, 8, 7),
    ],
)
def test_blocks(n, h, w, c_in, k, norm, dtype):
    """The stem's and the downsampling's shapes; ragged edges; runs of 2 to 16 byte words."""
    judge(stem(n, h, w, c_in, 24, k, norm), dtype)


@pytest.mark.parametrize("s", [2, 4])
def test_patches_of_an_image(s):
    """FCMAE's stem: only the kept patches of an image are read."""
    layout = PatchLayout.from_mask((torch.rand(2, 3, 3) < 0.5).float(), s)
    problem = stem(2, 3 * s * 4, 3 * s * 4, 3, 16, 4, "after")
    problem.options["layout"] = layout
    judge(problem, BF16)


@pytest.mark.parametrize("op", ["layer_norm", "dwconv_layer_norm"])
def test_the_widest_rows_fit_the_smallest_gpu(op, device):
    device("RTX 3090")
    judge(make(op, 1, 1, 2, 8192), F32)
    why = make(op, 1, 1, 2, 8193).to(F32, requires_grad=False)
    with pytest.raises(cf.UnsupportedInputError, match="its kernels take up to 8192 channels, not 8193"):
        why.public(backend="cuda")
