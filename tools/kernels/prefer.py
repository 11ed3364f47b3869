"""Renews `src/convnextv2_fast/preferences.tsv` from a committed result of a GPU: which backend of each op was faster,
and which kernel of the CUDA backend's depthwise convolution.

python -m tools.kernels.prefer benchmarks/results/MACHINE-DATE.csv
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.reports import naming, tidy
from benchmarks.reports.tidy import Row, write_atomically
from convnextv2_fast import dispatch, preferences
from convnextv2_fast.preferences import ANY, DWCONV_KERNEL, TABLE, Preference

BACKENDS, KERNELS = ("cuda", "triton"), ("fma", "mma")
LAYOUTS = {"sparse_dwconv": "patch"}  # what is measured of an op; the others dense
# GPUs by what their names contain, and the family that their measurements speak for.
FAMILIES = {
    "A100": "sm_80", "A10G": "sm_86", "A40": "sm_86", "3090": "sm_86", "L4": "sm_89", "L40": "sm_89", "4090": "sm_89",
    "H100": "sm_90", "H200": "sm_90", "GH200": "sm_90", "B200": "sm_100", "5090": "sm_120",
}  # fmt: skip


def family(machine: str) -> str:
    """The family of a GPU.

    Raises:
        ValueError: it is none of `FAMILIES`.
    """
    words = machine.replace("-", " ").split()
    found = {sm for name, sm in FAMILIES.items() if name in words}
    if len(found) != 1:
        raise ValueError(f"the family of {machine!r} is not known: add it to FAMILIES of tools/kernels/prefer.py")
    return found.pop()


def way(row: Row) -> str:
    """How a row's calls were launched: only rows launched alike are compared."""
    return "graph" if row.mode.endswith(" graph") else "one by one"


def compared(rows: Iterable[Row], choices: Sequence[str]) -> dict[str, float]:
    """For each op with rows of both choices: the first one's time over the second's, the geometric mean over its cases.

    A choice is a word of the column `mode` ("cuda-mma graph" has "cuda" and "mma"). Where a case has several rows of a
    choice, as of the kernels or strategies within a backend, the fastest counts: the backend would take that one."""
    times: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row.part != "ops" or row.provider != naming.OURS or not row.ms:
            continue
        words = row.mode.replace("-", " ").split()
        for choice in choices:
            if choice in words:
                case = times[row.case.partition("-")[0], row.case, str(row.batch), row.dtype, way(row)]
                case[choice] = min(row.ms, case.get(choice, math.inf))
    logs: dict[str, list[float]] = defaultdict(list)
    for (op, *_), found in times.items():
        if len(found) == len(choices):
            logs[op].append(math.log(found[choices[0]] / found[choices[1]]))
    return {op: math.exp(sum(each) / len(each)) for op, each in logs.items()}


def found(rows: Sequence[Row], source: str) -> list[Preference]:
    """The rows of the table that a result has an answer for.

    Raises:
        ValueError: the GPU's family is not known.
    """
    here = family(rows[0].machine) if rows else ""
    new = []
    for op, ratio in compared(rows, BACKENDS).items():
        if op in dispatch.registered_ops():
            new.append(preference(op, LAYOUTS.get(op, ANY), here, BACKENDS, ratio, source))
    kernels = compared(rows, KERNELS)
    ratio = kernels.get(
        "dwconv_layer_norm", kernels.get("dwconv7x7")
    )  # the op is what is used; the convolution its part
    if ratio is not None:
        new.append(preference(DWCONV_KERNEL, ANY, here, KERNELS, ratio, source))
    return new


def preference(op: str, layout: str, family: str, choices: Sequence[str], ratio: float, source: str) -> Preference:
    """The faster of two choices, `ratio` being the first one's time over the second's."""
    first = ratio < 1
    gain = 1 / ratio if first else ratio
    return Preference(op, layout, family, choices[0 if first else 1], f"{source}: {gain:.2f}x")


def merged(table: Sequence[Preference], new: Sequence[Preference]) -> list[Preference]:
    """The table with the new rows, in place of earlier ones of the same op, layout and family."""
    keys = {row[:3] for row in new}
    return [*(row for row in table if row[:3] not in keys), *new]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    options = parser.parse_args()
    try:
        new = found(tidy.read(options.result), options.result.name)
    except ValueError as error:
        parser.error(str(error))
    if not new:
        print("no op was measured in two ways: nothing to write")
        return 1
    head = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    rows = merged(preferences.read(), new)
    lines = [*head, "\t".join(Preference._fields), *("\t".join(row) for row in rows)]
    write_atomically(TABLE, "\n".join(lines) + "\n")
    for row in new:
        print(f"{row.op} on {row.family}: {row.backend} ({row.source})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
