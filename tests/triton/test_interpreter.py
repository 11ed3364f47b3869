"""Runs the folder `interpreted` in a process of its own: there every Triton kernel runs on the CPU, interpreted."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from convnextv2_fast import library

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(library.triton_why_not() is not None, reason=str(library.triton_why_not())),
]
ROOT = Path(__file__).resolve().parents[2]


def test_every_kernel_interpreted(request):
    command = [sys.executable, "-m", "pytest", "tests/triton/interpreted", "-q", "--tb=short", "-p", "no:cacheprovider"]
    if request.config.getoption("--pairs"):
        command += ["--pairs", "-m", "not thorough"]
    if importlib.util.find_spec("xdist") is not None:
        command += ["-n", "logical"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_importing_the_package_does_not_import_triton():
    code = "import sys, convnextv2_fast; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_cpu_tensor_is_refused_with_the_reason():
    import torch

    import convnextv2_fast as cf

    with pytest.raises(cf.UnsupportedInputError, match=r"triton.*run on GPU tensors, these are on cpu"):
        cf.ops.layer_norm(torch.zeros(2, 8), torch.ones(8), torch.ones(8), backend="triton")
