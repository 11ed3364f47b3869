"""Writes into `convnextv2_fast/preferences.tsv` which backend a GPU report measured faster, for the GPU of the report.

python -m benchmarks.prefer benchmarks/results/REPORT.json
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from convnextv2_fast import dispatch, preferences
from convnextv2_fast.preferences import ANY, TABLE, Preference

from .tidy import write_atomically

RIVALS = ("cuda", "triton")
LAYOUTS = {"sparse_dwconv": "patch"}  # what the report measures of an op; the others dense


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """For each op that both backends ran correctly: the geometric mean, over its rows, of cuda's time over triton's."""
    times: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for row in rows:
        op = row["name"].partition("-")[0]
        backend = str(row.get("provider", "")).removeprefix("fast-")
        if op in dispatch.registered_ops() and backend in RIVALS and row["status"] == "ok" and not row.get("wrong"):
            times[op, row["name"]][backend] = row["ms"]
    logs: dict[str, list[float]] = defaultdict(list)
    for (op, _), found in times.items():
        if len(found) == len(RIVALS):
            logs[op].append(math.log(found["cuda"] / found["triton"]))
    return {op: math.exp(sum(each) / len(each)) for op, each in logs.items()}


def merged(table: list[Preference], family: str, found: dict[str, float], source: str) -> list[Preference]:
    """The table with a row for each op measured, in place of earlier ones of this family."""
    new = []
    for op, ratio in found.items():
        backend, gain = ("cuda", 1 / ratio) if ratio < 1 else ("triton", ratio)
        new.append(Preference(op, LAYOUTS.get(op, ANY), family, backend, f"{source}: {gain:.2f}x"))
    keys = {row[:3] for row in new}
    return [*(row for row in table if row[:3] not in keys), *new]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    options = parser.parse_args()
    report = json.loads(options.report.read_text())
    gpu = report["header"].get("gpu") or {}
    if "capability" not in gpu:
        print("the report is not of a GPU: nothing to write")
        return 1
    found = ratios(report["rows"])
    if not found:
        print("no op was measured on both backends: nothing to write")
        return 1
    rows = merged(preferences.read(), f"sm_{gpu['capability'].replace('.', '')}", found, options.report.name)
    head = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    lines = [*head, "\t".join(Preference._fields), *("\t".join(row) for row in rows)]
    write_atomically(TABLE, "\n".join(lines) + "\n")
    for op, ratio in found.items():
        print(f"{op}: cuda takes {ratio:.2f} of triton's time")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
