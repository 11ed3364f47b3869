"""Prints every static figure beside its ceiling; no GPU is needed.

python -m tests.static_figures                  fails where one is above its ceiling
python -m tests.static_figures --write          lowers the ceilings in figures.tsv to what was found
python -m tests.static_figures --write --raise  sets them anew, higher too: say why in the commit
python -m tests.static_figures --only launches  one part: code, host or launches
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from .figures import Table, faults, read, text, with_ceilings, write
from .parts import PARTS


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.static_figures", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--write", action="store_true", help="lower the ceilings to what was found")
    parser.add_argument("--raise", dest="may_rise", action="store_true", help="with --write: raise them too")
    parser.add_argument("--only", choices=PARTS, help="this part alone")
    asked = parser.parse_args()
    table = read()
    made_with, figures, bad = dict(table.made_with), [], []
    for name, part in PARTS.items():
        known, why = table.of(name), part.why_not()
        if asked.only not in (None, name) or why is not None:
            if why is not None:
                print(f"{name}: as the table has it, not measured: {why}", file=sys.stderr)
            figures += known
            continue
        found = part.measure()
        if asked.write:
            made_with |= part.made_with() | part.made_on()
            known = with_ceilings(found, known, asked.may_rise)
        ceilings = {f.key: f.ceiling for f in known}
        figures += [replace(f, ceiling=ceilings.get(f.key)) for f in found]
        bad += faults(found, known)
    if asked.write:
        write(Table(made_with, figures))
    print(text(figures))
    for fault in bad:
        print(fault, file=sys.stderr)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
