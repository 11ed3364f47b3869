"""Adds an account, once it is back from the GPU, to the committed results: `python -m benchmarks keep OUT`.

The rows go to the file of their machine and day in `benchmarks/results`, in place of earlier ones of the same parts.
How each part ended goes to the file beside it, `.parts.csv`. Only from a clean tree: a figure that cannot be measured
again from a commit is not kept.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Sequence
from pathlib import Path

from . import tidy
from .account import page


def keep(directory: Path, date: str, results: Path = tidy.RESULTS) -> Path:
    """Adds the account in `directory`; the file that has its rows now.

    Raises:
        FileNotFoundError: there is no account.
        ValueError: it has no rows, or they are not of a clean tree.
    """
    path = tidy.keep(tidy.read(directory / "account.csv"), date, results)
    beside = path.with_suffix(".parts.csv")
    ended = {each.part: each for each in page.read_parts(beside)}
    ended.update((each.part, each) for each in page.read_parts(directory / "account.parts.csv"))
    page.write_parts(beside, ended.values())
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks keep", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path, help="OUT of make gpu-account")
    parser.add_argument("--date", default=str(datetime.date.today()), help="the day of the account (default: today)")
    options = parser.parse_args(arguments)
    try:
        path = keep(options.directory, options.date)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    print(f"{path.relative_to(tidy.RESULTS.parent.parent)}: {len(tidy.read(path))} rows")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
