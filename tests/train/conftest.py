"""Photographs in folders, and the training commands on them: in this process, or in processes of their own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from convnextv2_fast.cli import main
from tests import peers

ROOT = Path(__file__).parents[2]
SMALL = ("--input_size", "64", "--num_workers", "0", "--log_freq", "1", "--batch_size", "2")
PRETRAIN = ("--model", "atto", *SMALL, "--decoder_embed_dim", "32", "--grn_scope", "sample", "--init", "std02")
PRETRAIN = (*PRETRAIN, "--warmup_epochs", "1", "--lr", "1e-3")


@pytest.fixture(scope="session", autouse=True)
def libraries() -> None:
    try:
        peers.torchvision(), peers.timm()
    except ImportError as error:
        pytest.skip(f"training needs torchvision and timm: {error}", allow_module_level=True)


@pytest.fixture(autouse=True)
def restored_random_state() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """12 crops of 3 photographs by class: `train` 9 and `val` 3."""
    data = pytest.importorskip("skimage.data")
    from PIL import Image

    root = tmp_path_factory.mktemp("photos")
    for name in ("chelsea", "coffee", "rocket"):
        picture = Image.fromarray(getattr(data, name)())
        for i in range(4):
            folder = root / ("val" if i == 3 else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            picture.crop((20 * i, 10 * i, 20 * i + 96, 10 * i + 80)).save(folder / f"{i}.png")
    return root


@pytest.fixture
def cli(capsys) -> Callable[..., tuple[int, str, str]]:
    """`cli("pretrain", ...)` gives the exit code, stdout and stderr."""

    def run(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(a) for a in argv])
        except SystemExit as stop:  # argparse
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def pretrain(cli, photos) -> Callable[..., str]:
    """A pre-training run on the photographs into `out`, which must succeed; returns stderr."""

    def run(out: Path, *argv: object) -> str:
        code, _, err = cli("pretrain", "--data_path", photos, *PRETRAIN, "--output_dir", out, *argv)
        assert code == 0, err
        return err

    return run


def command(*argv: object, processes: int = 1, restarts: int = 0, **options: object) -> subprocess.Popen:
    """A training command in processes of its own, one thread each."""
    run = [sys.executable, "-m"]
    if processes > 1:
        run += ["torch.distributed.run", f"--nproc_per_node={processes}", f"--max-restarts={restarts}"]
        run += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--monitor-interval=0.2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    argv = [*run, "tests.train.command", *map(str, argv)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **options}
    return subprocess.Popen(argv, cwd=ROOT, env=environment, **pipes)


def workers(process: subprocess.Popen) -> list[int]:
    """The processes that a torchrun has started."""
    try:
        return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def end(process: subprocess.Popen) -> None:
    """Leaves nothing running: a torchrun that is killed leaves its workers."""
    orphans = workers(process)
    process.kill()
    for pid in orphans:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def finish(process: subprocess.Popen, seconds: float = 300) -> str:
    """Waits for a success; returns what was printed."""
    try:
        said, _ = process.communicate(timeout=seconds)
    finally:
        end(process)
    assert process.returncode == 0, said
    return said


def records(out: Path, name: str = "steps.jsonl") -> list[dict]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


def losses(out: Path) -> list[float]:
    return [record["loss"] for record in records(out)]
