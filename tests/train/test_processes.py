"""torchrun on CPUs: two processes do what one does, sharded or not, and survive what kills them."""

import contextlib
import os
import random
import signal
import time

import pytest

from convnextv2_fast.train import saving

from .conftest import PRETRAIN, command, end, finish, losses, records, workers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(photos, tmp_path_factory):
    """Two epochs by one process, four images a step."""
    out = tmp_path_factory.mktemp("alone")
    options = ("--batch_size", "4", "--epochs", "3", "--output_dir", out)
    finish(command("pretrain", "--data_path", photos, *PRETRAIN, *options))
    return out


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_do_what_one_does(photos, alone, tmp_path, parallel):
    """With GRN per sample; then one process takes up what two have written, and the other way round."""
    options = (*PRETRAIN, "--parallel", parallel)
    two = ("pretrain", "--data_path", photos, *options, "--epochs", "3", "--output_dir", tmp_path)
    finish(command(*two, processes=2))
    want = losses(alone)
    assert len(want) == 6 and losses(tmp_path) == pytest.approx(want, rel=1e-5)
    assert len(records(tmp_path, "log.txt")) == 3
    one = saving.read(alone / "checkpoint-1.pth")["model"]
    both = saving.read(tmp_path / "checkpoint-1.pth")["model"]
    assert one.keys() == both.keys() and all(one[k].shape == both[k].shape for k in one)
    (tmp_path / "checkpoint-2.pth").unlink()
    single = ("pretrain", "--data_path", photos, *PRETRAIN, "--batch_size", "4", "--epochs", "3")
    said = finish(command(*single, "--output_dir", tmp_path))
    assert "processes 2 -> 1" in said and losses(tmp_path) == pytest.approx(want, rel=1e-5)
    (tmp_path / "checkpoint-2.pth").unlink()
    (tmp_path / "checkpoint-1.pth").write_bytes((alone / "checkpoint-1.pth").read_bytes())
    said = finish(command(*two, processes=2))
    assert "processes 1 -> 2" in said and losses(tmp_path) == pytest.approx(want, rel=1e-5)


def test_killed_five_times(photos, tmp_path):
    """A worker is killed at a random moment, five times; torchrun starts all again, and nothing is lost but the steps
    since the last checkpoint."""
    options = (*PRETRAIN, "--epochs", "40", "--save_ckpt_steps", "1", "--save_ckpt_num", "1")
    calm, out = tmp_path / "calm", tmp_path / "out"
    finish(command("pretrain", "--data_path", photos, *options, "--output_dir", calm, processes=2))
    arguments = ("pretrain", "--data_path", photos, *options, "--output_dir", out)
    file = (tmp_path / "said.txt").open("w")
    process = command(*arguments, processes=2, restarts=9, stdout=file)
    draw, killed, seen = random.Random(), [], set()
    deadline = time.monotonic() + 240
    try:
        while len(killed) < 5 and process.poll() is None and time.monotonic() < deadline:
            fresh = [pid for pid in workers(process) if pid not in seen]
            done = len((out / "steps.jsonl").read_text().splitlines()) if (out / "steps.jsonl").exists() else 0
            if len(fresh) < 2 or (killed and done <= killed[-1]):  # not before it has done something new
                time.sleep(0.05)
                continue
            time.sleep(draw.uniform(0, 0.4))
            seen.update(fresh)
            with contextlib.suppress(ProcessLookupError):
                os.kill(draw.choice(fresh), signal.SIGKILL)
                killed.append(done)
        process.wait(timeout=max(1, deadline - time.monotonic()))
    finally:
        end(process)
        file.close()
    said = (tmp_path / "said.txt").read_text()
    assert process.returncode == 0 and len(killed) == 5, (killed, said[-3000:])
    assert "resumed from" in said, said
    assert [r["step"] for r in records(out)] == list(range(80))
    assert losses(out) == losses(calm)
    assert records(out, "log.txt") == records(calm, "log.txt")


def test_a_torchrun_that_is_killed_and_started_again(photos, tmp_path):
    """Without restarts: the same command goes on."""
    options = ("--epochs", "6", "--save_ckpt_steps", "1", "--output_dir", tmp_path)
    arguments = ("pretrain", "--data_path", photos, *PRETRAIN, *options)
    process = command(*arguments, processes=2)
    deadline = time.monotonic() + 120
    while not (tmp_path / "checkpoint-1.pth").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in workers(process):
        os.kill(pid, signal.SIGKILL)
    try:
        process.communicate(timeout=120)
    finally:
        end(process)
    assert process.returncode != 0
    finish(command(*arguments, processes=2))
    assert [r["step"] for r in records(tmp_path)] == list(range(12))
