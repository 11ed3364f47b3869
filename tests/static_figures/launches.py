"""Kernels that a step launches on a GPU, and operators that it calls. `counting.py` counts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.compile_cache import ROOT

from .figures import Figure

# Give memory, and launch nothing. Views do neither, and say so themselves.
ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}
# Operators of PyTorch that launch more than the one kernel they are named for, by aten/src/ATen/native. What a library
# adds to a product by itself, such as splits along the inner dimension, is not counted.
MORE = {
    "addmv": 2,  # copies the vector, then multiplies
    "convolution": 2,  # the bias is added afterwards
    "convolution_backward": 3,  # of input, weight and bias
    "index_copy": 2,  # copies the whole, then the rows
    "native_layer_norm_backward": 2,  # of the input, then of the parameters
    "nll_loss_backward": 2,  # zeros first
    "select_backward": 2,
    "slice_backward": 2,
}


def of_torch(operator: str) -> int:
    """Launches of PyTorch's operator of this name, without its overload, which is no view."""
    return 0 if operator in ALLOCATIONS else MORE.get(operator, 1)


def measure() -> list[Figure]:
    """In a process of its own, whose device is tests/fake_device."""
    from tests.fake_device.test_fake_device import build

    command = [sys.executable, "-m", "tests.static_figures.counting"]
    environment = os.environ | {"FAKE_DEVICE": str(build())}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[1:])}\n{done.stderr[-4000:]}")
    return [Figure("launches", *row) for row in json.loads(done.stdout.splitlines()[-1])]
