"""Checkpoint files: whole or absent, found again, kept in number."""

import resource
import subprocess
import sys
import textwrap

import pytest
import torch

from convnextv2_fast.train import TrainingError, saving
from convnextv2_fast.train.saving import Folder, Position

from .conftest import ROOT


def test_a_full_disk_leaves_the_older_file(tmp_path):
    """A limit on the size of files makes the system refuse to write, as a full disk does."""
    path = tmp_path / "checkpoint-0.pth"
    saving.write({"model": {"w": torch.ones(3)}}, path)
    code = f"""
        import pathlib, torch
        from convnextv2_fast.train import TrainingError, saving
        try:
            saving.write({{"model": {{"w": torch.ones(1 << 20)}}}}, pathlib.Path({str(path)!r}))
        except TrainingError as error:
            print(error)
    """
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # noqa: E731
    argv = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(argv, cwd=ROOT, preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # torch says "[enforce fail at inline_container.cc:672] . unexpected pos 768 vs 662"
    assert f"cannot save {path} (the older file of this name is intact): File too large\n" in done.stdout
    assert torch.equal(saving.read(path)["model"]["w"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 768 vs 662"), "the disk may be full"),
        (RuntimeError("Tensors of type SparseTensorImpl cannot be saved"), "Tensors of type SparseTensorImpl cannot"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_why_a_file_was_not_written(tmp_path, monkeypatch, error, said):
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(TrainingError, match=rf"^cannot save {tmp_path}/a\.pth: {said}"):
        saving.write({"model": {}}, tmp_path / "a.pth")
    assert not list(tmp_path.iterdir())


def test_which_files_stay(tmp_path):
    folder, content = Folder(tmp_path, keep=2), {"model": {}}
    for at in ((0, 2), (0, 4), (1, 0), (1, 2), (2, 0), (3, 0), (3, 1)):
        folder.save(content, Position(*at))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-1.pth", "checkpoint-2.pth", "partial-3-1.pth"]
    assert [place for place, _ in folder.found()] == [Position(2, 0), Position(3, 0), Position(3, 1)]
    folder.save(content, Position(4, 0))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-2.pth", "checkpoint-3.pth"]


def test_a_damaged_file_is_passed_over(tmp_path):
    folder, said = Folder(tmp_path, keep=3), []
    folder.save({"model": {"n": torch.zeros(1)}}, Position(1, 0))
    whole = folder.save({"model": {"n": torch.ones(1)}}, Position(2, 0))
    whole.write_bytes(whole.read_bytes()[:200])
    path, content = folder.newest(said.append)
    assert path.name == "checkpoint-0.pth" and content["model"]["n"] == 0
    assert len(said) == 1 and "checkpoint-1.pth: truncated" in said[0]
    (tmp_path / ".checkpoint-5.pth.writing").write_bytes(b"half")
    folder.tidy()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-0.pth", "checkpoint-1.pth"]
    assert Folder(tmp_path / "new", 1).newest(said.append) is None
    with pytest.raises(TrainingError, match=r"checkpoint-0.pth: cannot be an output folder: .*exists"):
        Folder(path, 1).make()


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(TrainingError, match="no such file"):
        saving.read(tmp_path / "none.pth")
    torch.save({"weights": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(TrainingError, match="holds no 'model'"):
        saving.read(tmp_path / "other.pth")


def test_random_states_come_back(tmp_path):
    import random

    import numpy

    saving.seed(5)
    path = tmp_path / "checkpoint-0.pth"
    saving.write({"model": {}, "random": saving.random_state(torch.device("cpu"))}, path)
    draw = lambda: (torch.rand(2).tolist(), random.random(), random.gauss(0, 1), numpy.random.randn(3).tolist())  # noqa: E731
    want = draw()
    draw()
    saving.restore_random_state(saving.read(path)["random"], torch.device("cpu"))
    assert draw() == want
