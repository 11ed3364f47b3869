"""The tests of this folder run on the emulated CUDA library, in a process of its own that `../test_emulation.py` starts.
By hand: CUDA_EMULATION=$(python -m tests.cuda_emulation.building plain) pytest tests/cuda_emulation/emulated"""

import os

import torch

from convnextv2_fast.ops import _cuda

LIBRARY = os.environ.get("CUDA_EMULATION")
collect_ignore_glob = [] if LIBRARY else ["test_*.py"]
if LIBRARY:
    torch.ops.load_library(LIBRARY)  # implements the CUDA operators for CPU tensors
    _cuda.DEVICE = "cpu"
