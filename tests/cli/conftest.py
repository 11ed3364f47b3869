"""Runs the command line in this process."""

import sys
from collections.abc import Callable, Iterator

import pytest
import torch

from convnextv2_fast.cli import main


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tests share the machine, and two threads that wait for each other take far longer than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cli(capsys) -> Callable[..., tuple[int, str, str]]:
    """`cli("env", "--json")` gives the exit code, stdout and stderr."""

    def run(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main(argv)
        except SystemExit as stop:  # argparse
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def without_rich(monkeypatch) -> None:
    """Every import of rich fails, as where it is not installed."""
    for name in ("rich", "rich.console", "rich.progress", "rich.table"):
        monkeypatch.setitem(sys.modules, name, None)
