"""Runs the folder `faked` in a process of its own: whole steps of models on a CUDA device that is not there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.compile_cache import ROOT, compile_once
from tests.native.cxx import COMPILER, needs_compiler

TORCH = Path(torch.__file__).parent


def build() -> Path:
    """The library that pretends to be a device."""
    assert COMPILER is not None
    made = ROOT / "build" / "fake_device" / "device.so"
    made.parent.mkdir(parents=True, exist_ok=True)
    paths = (f"-isystem{TORCH / 'include'}", f"-L{TORCH / 'lib'}", f"-Wl,-rpath,{TORCH / 'lib'}")
    source = str(Path(__file__).with_name("device.cpp"))
    command = (COMPILER, "-std=c++20", "-O1", "-shared", "-fPIC", *paths, source, "-lc10", "-ltorch_cpu")
    return compile_once(command, made, torch.__version__)


@needs_compiler
@pytest.mark.skipif(torch.version.cuda is not None or torch.version.hip is not None, reason="torch has the real ones")
def test_whole_steps_never_read_from_the_device():
    plugins = ("-p", "tests.fake_device.loaded", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", *plugins, "-q", "--tb=short", "tests/fake_device/faked"]
    environment = os.environ | {"FAKE_DEVICE": str(build())}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) > 20, done.stdout[-2000:]
    assert "skipped" not in done.stdout, done.stdout[-2000:]
