"""Every command of the documentation: quick ones run, the others are read by the program that they start."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from convnextv2_fast import cli
from tests import inductor
from tools.docs import pages

ROOT = pages.ROOT
LANGUAGES = {"python", "bash", "console", "text"}  # text: output, or a synopsis


def commands():
    """`(page, line, command)` of each command in a bash or console block; continued lines are joined."""
    for path in pages.sources():
        for fence in pages.fences(path.read_text()):
            code = fence.code
            if fence.language == "console":
                code = "".join(line[2:] for line in code.splitlines(True) if line.startswith("$ "))
            elif fence.language != "bash":
                continue
            for line in code.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    yield path.name, fence.line, words


COMMANDS = list(commands())


def run(words, tmp_path):
    words = [str(ROOT / word) if word.startswith("examples/") else word for word in words]
    done = subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def read(arguments):
    """Parsed by the library's own command line, which exits where it does not know an option."""
    assert vars(cli.parser().parse_args(arguments))["command"] == arguments[0]


def check_make(words):
    done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def check_pip(words):
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in re.findall(r"\[([\w,]+)\]", " ".join(words)):
        assert set(extra.split(",")) <= set(project["optional-dependencies"])


def check_python(words, tmp_path):
    if words[1].endswith(".py"):
        return run(words, tmp_path)
    assert words[1] == "-m"
    module, arguments = words[2], words[3:]
    if module == "convnextv2_fast":
        read(arguments)
        if inductor.BROKEN and "--compile" in arguments:
            pytest.skip(inductor.WHY_NOT)
        if arguments[0] in ("env", "explain") or (arguments[0] == "bench" and "64" in arguments):
            run(words, tmp_path)
        return None
    if module == "pytest":
        assert all((ROOT / word).exists() for word in arguments if "/" in word)
        return None
    assert importlib.util.find_spec(module) is not None
    return None


@pytest.mark.parametrize(
    ("page", "line", "words"), COMMANDS, ids=[f"{p}-{n}-{w[0]}-{i}" for i, (p, n, w) in enumerate(COMMANDS)]
)
def test_command(page, line, words, tmp_path, monkeypatch):
    monkeypatch.delenv("CONVNEXTV2_FAST_BACKEND", raising=False)
    while "=" in words[0] and not words[0].startswith("-"):  # VARIABLE=value before the command
        words = words[1:]
    program = Path(words[0]).name
    if program == "make":
        check_make(words)
    elif program == "pip":
        check_pip(words)
    elif program == "torchrun":
        assert words[2:4] == ["-m", "convnextv2_fast"]
        read(words[4:])
    elif program == "pytest":
        check_python(["python", "-m", *words], tmp_path)
    elif program == "python":
        check_python(words, tmp_path)
    else:
        pytest.fail(f"{page}, line {line}: nobody knows what {program} is")


def test_every_block_has_a_language():
    for path in pages.sources():
        for fence in pages.fences(path.read_text()):
            assert fence.language in LANGUAGES, f"{path.name}, line {fence.line}"


def test_there_are_commands():
    assert {Path(words[0]).name for _, _, words in COMMANDS} >= {"make", "pip", "python", "torchrun"}
