"""The tests of this folder run on the emulated CUDA library, in a process of its own, from `../test_emulation.py`.
By hand: CUDA_EMULATION=$(python -m tests.cuda_emulation.building plain) pytest tests/cuda_emulation/emulated
With --pairs, of each test only so many cases that any two values of two parameters meet."""

import ctypes
import os

import pytest
import torch

from convnextv2_fast.ops._shared import cuda
from tests.pairs import select

LIBRARY = os.environ.get("CUDA_EMULATION")
collect_ignore_glob = [] if LIBRARY else ["test_*.py"]
if LIBRARY:
    torch.ops.load_library(LIBRARY)  # implements the CUDA operators for CPU tensors
    cuda.DEVICE = "cpu"

# processors, shared memory of a block, of a processor, compute capability
KNOWN = {
    "A100": (108, 163 << 10, 164 << 10, 80),
    "RTX 3090": (82, 99 << 10, 100 << 10, 86),
    "H100": (132, 227 << 10, 228 << 10, 90),
    "T4": (40, 64 << 10, 64 << 10, 75),
    "tiny": (2, 99 << 10, 100 << 10, 80),  # few processors: blocks with many tiles each
}


@pytest.fixture
def device():
    """device(name): the launchers see this GPU until the test ends."""
    handle = ctypes.CDLL(LIBRARY)

    def choose(name: str) -> None:
        processors, shared, all_shared, capability = KNOWN[name]
        handle.cuda_emulation_set_device(processors, ctypes.c_int64(shared), ctypes.c_int64(all_shared), capability)

    yield choose
    choose("H100")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--pairs"):
        select(config, items)
