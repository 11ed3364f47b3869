"""Logs: on a disk that is full, read back after a crash, and written by one run at a time."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch

from convnextv2_fast.train import TrainingError, curves, display, lines, lock, log, saving
from convnextv2_fast.train.saving import Position

from .conftest import ROOT, losses, records

RECORD = {"step": 0, "epoch": 0, "loss": 1.0, "lr": 0.1}


def opened(folder, said=None, tensorboard=None, start=(0, 0)) -> log.Log:
    found = log.Log(folder, tensorboard, True, Position(*start), 9, 3, "pretrain atto")
    if said is not None:
        found._show.say = lambda text: said.append(text) if not text.startswith("step ") else None
    return found


def test_what_cannot_be_written_waits(tmp_path, monkeypatch):
    """A folder in the place of a file cannot be appended to, not even by root."""
    said: list[str] = []
    of = opened(tmp_path, said)
    for name in ("log.txt", "steps.jsonl"):
        (tmp_path / name).mkdir()
    for step in range(3):
        of.steps([{**RECORD, "step": step}], 1.0)
        of.epoch({"epoch": step, "train_loss": 1.0})
    assert len(said) == 2 and all("error: cannot write" in s and "; training continues, and tries" in s for s in said)
    (tmp_path / "log.txt").rmdir(), (tmp_path / "steps.jsonl").rmdir()
    of.steps([{**RECORD, "step": 3}], 1.0)
    assert [r["step"] for r in records(tmp_path)] == [0, 1, 2, 3] and "steps.jsonl is written again" in said[2]
    of.close()
    assert [r["epoch"] for r in records(tmp_path, "log.txt")] == [0, 1, 2]


def test_what_was_never_written_is_counted(tmp_path):
    said: list[str] = []
    (tmp_path / "log.txt").mkdir()
    file = lines.Lines(tmp_path / "log.txt", said.append)
    file.add([RECORD, RECORD])
    file.close()
    assert said[1] == f"error: {tmp_path}/log.txt lacks its last 2 lines, which could not be written"


def test_a_full_disk_leaves_no_half_line(tmp_path):
    """A limit on the size of files makes the system stop in the middle of a line, as a full disk does."""
    code = f"""
        import pathlib, resource
        from convnextv2_fast.train import lines
        file = lines.Lines(pathlib.Path({str(tmp_path / "log.txt")!r}), print)
        file.add([{{"epoch": 0}}])
        resource.setrlimit(resource.RLIMIT_FSIZE, (30, resource.RLIM_INFINITY))
        file.add([{{"epoch": 1, "train_loss": 0.25}}])
        print(file.path.read_text())
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        file.add([{{"epoch": 2}}])
    """
    argv = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "File too large; training continues" in done.stdout and '{"epoch": 0}\n\n' in done.stdout
    assert [r["epoch"] for r in records(tmp_path, "log.txt")] == [0, 1, 2]


def test_tensorboard_is_given_up(tmp_path):
    pytest.importorskip("tensorboard")
    said: list[str] = []
    of = opened(None, said, tmp_path / "board")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    of._writer.close()
    of._writer.add_scalar = full
    of.steps([RECORD], 1.0)
    of.steps([RECORD], 1.0)
    of.epoch({"epoch": 0, "test_acc1": 1.0})
    of.close()
    assert [s for s in said if "TensorBoard" in s] == [
        "error: TensorBoard's file cannot be written: [Errno 28] No space left on device; training continues without it"
    ]


def test_a_full_stderr_does_not_end_a_run(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        shown = display.Display("pretrain", 9, 0)
        shown.say("a line")
        shown.steps({"step": 8, "epoch": 0, "loss": 1.0}, 1.0)
        monkeypatch.undo()
        full.buffer.raw.close()


DAMAGED = (
    '\n{"step": 0, "epoch": 0, "loss": 4.0}\n{"step": 1, "epoch": 0, "lo\n\0\0\0{"step": 2, "epoch": 0, "loss": 2.0}\n'
)
DAMAGED += '3\n[]\n{"step": 3, "epoch": 0, "loss": null}\n{}\n{"step": 4, "epoch": 1, "loss": 1.0}\n{"ste'


def test_damaged_lines_are_left_out(tmp_path):
    (tmp_path / "steps.jsonl").write_text(DAMAGED)
    assert curves.read(tmp_path) == ("step", [0, 2, 4], [4.0, 2.0, 1.0])
    of = opened(tmp_path, start=(1, 0))  # of 3 steps
    of.steps([{**RECORD, "step": 3}], 1.0)
    of.close()
    assert [r.get("step") for r in records(tmp_path)] == [0, 2, None, 3]
    (tmp_path / "steps.jsonl").write_text("")
    opened(tmp_path).close()
    with pytest.raises(TrainingError, match="no line has a loss"):
        curves.read(tmp_path)


@pytest.mark.parametrize(
    "damage", [b"\xff\xfe\x80", b"[" * 100_000, b'{"a":' * 100_000], ids=["bytes", "lists", "tables"]
)
def test_damage_that_json_does_not_expect(tmp_path, damage):
    (tmp_path / "steps.jsonl").write_bytes(b'{"step": 0, "loss": 4.0}\n' + damage + b'\n{"step": 1, "loss": 2.0}\n')
    assert curves.read(tmp_path) == ("step", [0, 1], [4.0, 2.0])
    opened(tmp_path, start=(1, 0)).close()
    assert [r["step"] for r in records(tmp_path)] == [0, 1]


def test_a_run_with_a_damaged_log_is_resumed(pretrain, tmp_path):
    pretrain(tmp_path, "--epochs", "1")
    whole = losses(tmp_path)
    with open(tmp_path / "steps.jsonl", "a") as file:
        file.write('{"step": 4, "los\n\n')
    pretrain(tmp_path, "--epochs", "2")
    assert losses(tmp_path)[: len(whole)] == whole and [r["step"] for r in records(tmp_path)] == list(range(8))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: run.pop("random"), "it holds no random states, so random numbers start again from the seed"),
        (lambda run: run.update(random=[{}]), "its random states cannot be used ('torch'), so random"),
        (lambda run: [run.pop(key) for key in ("random", "taken", "unreadable", "best", "losses")], "no random states"),
    ],
)
def test_a_checkpoint_without_random_states_is_resumed(pretrain, tmp_path, change, said):
    pretrain(tmp_path, "--epochs", "1")
    content = saving.read(tmp_path / "checkpoint-0.pth")
    change(content["run"])
    saving.write(content, tmp_path / "checkpoint-0.pth")
    err = pretrain(tmp_path, "--epochs", "2")
    assert f"resumed from {tmp_path / 'checkpoint-0.pth'}; " in err and said in err and "processes" not in err, err
    assert len(losses(tmp_path)) == 8


def test_a_checkpoint_that_does_not_say_where_it_stood(pretrain, cli, photos, tmp_path):
    from .conftest import PRETRAIN

    pretrain(tmp_path, "--epochs", "1")
    content = saving.read(tmp_path / "checkpoint-0.pth")
    whole = content["run"]
    for run, message in (
        ({key: value for key, value in whole.items() if key != "step"}, "does not say where its run stood (step)"),
        ({**whole, "epoch": "1"}, "does not say where its run stood (epoch)"),
        ({**whole, "images": 0.5}, "does not say where its run stood (images)"),
        ({**whole, "best": [1.0]}, "its 'best' is a list, which no run writes"),
        ([1, 2], "its 'run' is a list, not a table"),
    ):
        torch.save({**content, "run": run}, tmp_path / "checkpoint-0.pth")
        code, _, err = cli("pretrain", "--data_path", photos, *PRETRAIN, "--output_dir", tmp_path, "--epochs", "2")
        assert code == 2 and f"{message}, so it cannot be resumed" in err, err


HOLD = """
    import pathlib, sys
    from convnextv2_fast.train import lock
    with lock.claimed(pathlib.Path(sys.argv[1])):
        print("has it", flush=True)
        sys.stdin.read()
"""


def test_a_folder_is_one_runs(cli, pretrain, photos, tmp_path):
    from .conftest import PRETRAIN

    argv = [sys.executable, "-c", textwrap.dedent(HOLD), str(tmp_path)]
    other = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "has it\n"
        half = tmp_path / ".checkpoint-0.pth.writing"
        half.write_bytes(b"of the other run")
        code, _, err = cli("pretrain", "--data_path", photos, *PRETRAIN, "--output_dir", tmp_path, "--epochs", "1")
        who = f"another run writes into it (process {other.pid} on "
        assert code == 2 and who in err and "give another --output_dir\n" in err and err.count("\n") == 1, err
        assert half.exists() and not (tmp_path / "steps.jsonl").exists()
    finally:
        other.kill()  # the system ends the claim
        other.communicate()
    pretrain(tmp_path, "--epochs", "1")
    with lock.claimed(tmp_path), pytest.raises(TrainingError, match="this process"), lock.claimed(tmp_path):
        pass


def test_a_claim_does_not_pass_to_the_loader_processes(tmp_path):
    with lock.claimed(tmp_path):
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            os.read(reader, 1)
            os._exit(0)
    try:  # the child, which has inherited every open file, still runs
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(HOLD), str(tmp_path)],
            cwd=ROOT,
            input="",
            capture_output=True,
            text=True,
        )
        assert done.stdout == "has it\n", done.stderr
    finally:
        os.write(writer, b"x"), os.waitpid(pid, 0)
        os.close(reader), os.close(writer)


def test_a_log_that_cannot_be_shortened_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "log.txt").write_text(json.dumps({"epoch": 0}) + "\n")
    (tmp_path / ".log.txt.writing").mkdir()
    with pytest.raises(TrainingError, match=r"log\.txt: cannot be written: "):
        opened(tmp_path)
