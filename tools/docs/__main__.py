"""`python -m tools.docs`: renews the generated parts of the pages and the plots of the newest results.

`--check` only says which are out of date.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.reports import tidy

from . import pages, results
from .blocks import BLOCKS


def main() -> int:
    """0; with --check, 1 if a page or a plot is not what it should be."""
    parser = argparse.ArgumentParser(prog="python -m tools.docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page is out of date")
    args = parser.parse_args()
    stale = []
    for path in pages.sources():
        text = path.read_text(encoding="utf-8")
        renewed = pages.renew(text, BLOCKS)
        if renewed != text:
            stale.append(path.relative_to(pages.ROOT))
            if not args.check:
                path.write_text(renewed, encoding="utf-8")
    for plot, csv in results.stale_plots():
        stale.append(plot.path(csv).relative_to(pages.ROOT))
        if not args.check:
            plot.draw(csv, tidy.read(csv))
    for name in stale:
        print(f"{name}: {'out of date, run: python -m tools.docs' if args.check else 'renewed'}")
    return 1 if stale and args.check else 0


if __name__ == "__main__":
    sys.exit(main())
