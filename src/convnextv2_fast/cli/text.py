"""Tables, a progress bar, and text without absolute paths. With rich where it is installed, plain otherwise."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
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


def plain_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first to the left, numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(headers, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]).rstrip()

    return "\n".join([line(headers), line(["-" * width for width in widths]), *(line(row) for row in rows)])


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """On stdout."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(plain_table(headers, rows))
        return
    table = Table()
    for i, header in enumerate(headers):
        table.add_column(header, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    # Rich folds what goes into a file at 80 columns; a terminal has its own width.
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160, markup=False, highlight=False).print(table)


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr while the block runs; yields the function that moves it by one. Nothing without rich
    or a terminal."""
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        yield lambda: None
        return
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
