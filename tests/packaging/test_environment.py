"""What `make` sets up first: a folder of somebody's is left alone, and what was cut short is made good."""

import subprocess
import sys

import pytest

from tools.environment import __main__ as environment
from tools.environment.__main__ import Environment, Failed


@pytest.fixture
def venv(monkeypatch):
    """Called instead of Python's venv: makes an environment, wholly or in part, then ends as told."""

    def run(command, **_):
        if command[1:3] == ["-m", "pip"]:
            return subprocess.CompletedProcess(command, 1)  # no pip
        made.append(command)
        folder = environment.Path(command[3])
        (folder / "bin").mkdir(exist_ok=True)
        if not (folder / "bin" / "python").exists():
            (folder / "bin" / "python").symlink_to(sys.executable)
        (folder / "pyvenv.cfg").touch()
        site = folder / "lib" / "python3.11" / "site-packages"
        (site / "pip").mkdir(parents=True)  # fails where half of it is left
        if isinstance(ends, BaseException):
            raise ends
        if ends == 0:
            (site / "pip-1.0.dist-info").mkdir()
            (site / "pip-1.0.dist-info" / "RECORD").touch()
        return subprocess.CompletedProcess(command, ends)

    def ending(how):
        nonlocal ends
        ends = how
        return made

    ends, made = 0, []
    monkeypatch.setattr(environment.subprocess, "run", run)
    return ending


def test_made_once(tmp_path, venv):
    made = venv(0)
    for _ in range(2):
        Environment(tmp_path / "a" / "new").create()
    assert made == [[sys.executable, "-m", "venv", str(tmp_path / "a" / "new")]]
    assert not (tmp_path / "a" / "new" / ".unfinished").exists()


def test_a_folder_of_somebody_is_left_alone(tmp_path, venv):
    made = venv(1)
    (tmp_path / "thesis.txt").write_text("x")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    with pytest.raises(Failed, match="holds something else than a virtual environment; nothing was touched"):
        Environment(tmp_path).create()
    with pytest.raises(Failed, match="is no folder"):
        Environment(tmp_path / "thesis.txt").create()
    assert not made and (tmp_path / "thesis.txt").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "thesis.txt"]


def test_a_failure_removes_what_it_made_and_nothing_else(tmp_path, venv):
    venv(1)
    old = tmp_path / "old"
    old.mkdir()
    for name in ("pyvenv.cfg", "notes.txt"):
        (old / name).write_text("mine")
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty", "old"):
        with pytest.raises(Failed, match="cannot make an environment"):
            Environment(tmp_path / name).create()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "old"]
    assert not list((tmp_path / "empty").iterdir()) and (old / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("mark", [True, False])
def test_what_was_interrupted_is_made_good(mark, tmp_path, venv, monkeypatch):
    """Without the mark: an environment from before there was one."""
    made, folder = venv(KeyboardInterrupt()), tmp_path / "v"
    with pytest.raises(KeyboardInterrupt):
        Environment(folder).create()
    assert (folder / ".unfinished").exists()
    if not mark:
        (folder / ".unfinished").unlink()
    (folder / "notes.txt").touch()
    venv(0)
    # The Makefile takes the environment's own interpreter once it is there.
    monkeypatch.setattr(sys, "executable", str(folder / "bin" / "python"))
    for _ in range(2):
        Environment(folder).create()
    assert len(made) == 2 and not made[1][0].startswith(str(folder))
    assert (folder / "notes.txt").exists() and not (folder / ".unfinished").exists()


def test_a_link_to_a_python_that_is_gone_is_replaced(tmp_path, venv):
    venv(0)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(tmp_path / "gone")
    (tmp_path / "pyvenv.cfg").touch()
    Environment(tmp_path).create()
    assert (tmp_path / "bin" / "python").exists()
