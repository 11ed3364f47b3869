"""Tables on a terminal: with rich where it is installed, plain otherwise."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def plain_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first to the left, numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(headers, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]).rstrip()

    return "\n".join([line(headers), line(["-" * width for width in widths]), *(line(row) for row in rows)])


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """On stdout, the title above it."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(*([f"\n{title}"] if title else []), plain_table(headers, rows), sep="\n")
        return
    table = Table(title=title or None, title_justify="left")
    for i, header in enumerate(headers):
        table.add_column(header, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    # Rich folds what goes into a file at 80 columns; a terminal has its own width.
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160, markup=False, highlight=False).print(table)
