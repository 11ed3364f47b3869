"""What the GPU report times of the depthwise convolution is what it says: each pass against torch's."""

import pytest
import torch

from benchmarks.suite.depthwise import UNITS, our_pass, torch_pass
from convnextv2_fast.ops._shared import cuda


@pytest.mark.parametrize("backend", ["cuda", "cuda-mma"])
@pytest.mark.parametrize("which", UNITS)
def test_passes(which, backend, monkeypatch):
    monkeypatch.setattr(cuda, "DWCONV", "auto")  # put back in the end
    x, g = (torch.randn(2, 8, 7, 9).contiguous(memory_format=torch.channels_last) for _ in range(2))
    weight, bias = torch.randn(8, 1, 7, 7), torch.randn(8)
    ours, want = our_pass(which, weight, bias, backend)(x, g), torch_pass(which, weight, bias, False)(x, g)
    assert len(ours) == len(want)
    for a, b in zip(ours, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
