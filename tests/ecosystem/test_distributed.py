"""DDP, and FSDP2 saved and loaded by torch.distributed.checkpoint: two processes on gloo do what one process does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.ecosystem.subjects import build, close, images
from tests.ecosystem.worker import train


def two_processes(mode, name, folder):
    """What the first of them wrote."""
    command = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    done = subprocess.run(
        [*command, "-m", "tests.ecosystem.worker", mode, name, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return torch.load(folder / "done.pt")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", ["ours", "timm", "transformers"])
def test_two_processes(mode, name, tmp_path):
    found = two_processes(mode, name, tmp_path)
    model = build(name).train()
    assert found["losses"] == pytest.approx(train(model), rel=1e-5)
    alone = build(name)
    alone.load_state_dict({k.removeprefix("module."): v for k, v in found["state"].items()})
    with torch.no_grad():
        close(alone(images()), model.eval()(images()), 1e-3)
