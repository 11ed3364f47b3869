"""A progress bar, where rich is installed, and text without absolute paths."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

# "/usr/bin/c++" and "C:\tools\cl.exe", but not "images/s" or "https://...".
_PATH = re.compile(r"(?<![\w/:.])(?:[A-Za-z]:[\\/]|/)[^\s:;,'\"]*")


def _last_component(path: re.Match[str]) -> str:
    return re.split(r"[\\/]", path.group().rstrip("\\/"))[-1] or path.group()


def without_paths(value: Any) -> Any:
    """Strings, and lists and dicts of them, with every absolute path cut down to its last component."""
    if isinstance(value, str):
        return _PATH.sub(_last_component, value)
    if isinstance(value, dict):
        return {k: without_paths(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(v) for v in value]
    return value


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr while the block runs; yields the function that moves it by one. A line in place of it
    without rich; nothing without a terminal."""
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        if sys.stderr.isatty():
            print(f"{what}: {total} steps; with rich installed you would see how far it is", file=sys.stderr)
        yield lambda: None
        return
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
