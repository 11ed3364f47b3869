"""The hardware's counters of each kernel, by Nsight Compute (`ncu`): what limits it.

The clocks are left as they are. A row is a kernel of a case: `ms` is its duration as the profiler saw it, the note has
the metrics by their short names (`NAMES`).
"""

from __future__ import annotations

import csv
import math
import shutil
import sys
from collections.abc import Iterator

from .. import naming
from ..tidy import noted
from . import children, kernels, programs
from .context import Context

STALLS = ("long_scoreboard", "barrier", "short_scoreboard", "math_pipe_throttle", "mio_throttle")
DURATION = "gpu__time_duration.sum"
NAMES = {
    "dram_read": "dram__bytes_read.sum",
    "dram_write": "dram__bytes_write.sum",
    "l2": "lts__t_bytes.sum",
    "shared_wavefronts": "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum",
    "issue_active": "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "warps_active": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "tensor": "sm__inst_executed_pipe_tensor.sum",
    **{pipe: f"smsp__inst_executed_pipe_{pipe}.sum" for pipe in ("xu", "alu", "fma", "lsu")},
    **{stall: f"smsp__average_warps_issue_stalled_{stall}_per_issue_active.ratio" for stall in STALLS},
}
# Units of the counters' table to bytes and to seconds.
SCALE = {
    "": 1.0, "%": 1.0, "inst": 1.0, "warp": 1.0,
    "byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9,
    "nsecond": 1e-9, "ns": 1e-9, "usecond": 1e-6, "us": 1e-6, "msecond": 1e-3, "ms": 1e-3, "second": 1.0, "s": 1.0,
    "nanosecond": 1e-9, "microsecond": 1e-6, "millisecond": 1e-3,
}  # fmt: skip


def run(context: Context) -> None:
    if context.dry:
        kernels.main(["--device", context.device])
        return
    tool = shutil.which("ncu")
    if tool is None:
        context.say("ncu is not on PATH")
        return
    table, log = context.work / "counters.csv", context.log("ncu")
    metrics = available(tool, context)
    table.unlink(missing_ok=True)
    ends = context.ends - 15  # then it prints: a table that is cut off is none
    command = [tool, "--clock-control", "none", "--profile-from-start", "off", "--csv", "--page", "raw"]
    command += ["--print-units", "base", "--log-file", str(table), "--metrics", ",".join(metrics)]
    command += [sys.executable, "-m", "benchmarks.reports.account.kernels", "--ends", f"{ends:.1f}"]
    code = programs.finish(programs.begin(command, log), context.ends - 1)
    if code != 0:
        context.say(f"ncu: {children.ending(code, log)}")
    found = add(context, table.read_text(errors="replace")) if table.exists() else 0
    if not found:
        context.say(f"ncu gave no table: {children.last_line(table if table.exists() else log)}")


def available(tool: str, context: Context) -> list[str]:
    """Those of our metrics that this GPU has: ncu refuses to begin if it is asked for one that it does not know."""
    wanted = [DURATION, *NAMES.values()]
    log = context.log("metrics")
    code = programs.finish(programs.begin([tool, "--query-metrics"], log), context.ends - 30)
    listed = set(log.read_text(errors="replace").split()) if code == 0 else set()
    known = [metric for metric in wanted if metric.partition(".")[0] in listed]
    if DURATION not in known:
        return wanted  # the list could not be read
    if len(known) < len(wanted):
        context.say(f"unknown to ncu here: {', '.join(sorted(set(wanted) - set(known)))}")
    return known


def add(context: Context, text: str) -> int:
    """A row for each kernel in ncu's table; how many."""
    wanted, rows = kernels.cases("cuda"), 0
    for number, name, seconds, figures in parsed(text):
        if number >= len(wanted):
            break
        each = wanted[number]
        case = each.case("cuda")
        mode = f"{naming.published(f'fast-{each.backend}')[1]}: {name}"
        columns = {"batch": case.batch, "dtype": case.setting.precision}
        context.add(case.what, naming.OURS, mode, ms=1e3 * seconds, note=noted(**figures), **columns)
        rows += 1
    return rows


def parsed(text: str) -> Iterator[tuple[int, str, float, dict[str, str]]]:
    """The table of `ncu --csv --page raw`: number of the case, kernel, seconds, and the metrics by their short names.

    Its first line names the columns, its second their units; lines before it are remarks. A kernel that appears again
    in a case gets a number behind its name."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        return
    header, *rest = csv.reader(line for line in lines[start:] if line.startswith('"'))
    units, *rows = rest or [[""] * len(header)]
    scales = dict(zip(header, (SCALE.get(unit, 1.0) for unit in units), strict=False))
    case, seen = -1, dict[str, int]()
    for cells in rows:
        row = dict(zip(header, cells, strict=False))
        name = row.get("Kernel Name", "")
        if kernels.MARKER in name:
            case, seen = case + 1, {}
            continue

        def value(metric: str, row: dict[str, str] = row) -> float | None:
            try:
                found = float(row[metric].replace(",", "")) * scales[metric]
            except (KeyError, ValueError):
                return None
            return found if math.isfinite(found) else None

        seconds = value(DURATION)
        if case < 0 or seconds is None:
            continue
        short = name.replace("(anonymous namespace)::", "")[:100]
        seen[short] = seen.get(short, 0) + 1
        figures = {key: value(metric) for key, metric in NAMES.items()}
        shown = {key: f"{found:.4g}" for key, found in figures.items() if found is not None}
        yield case, short if seen[short] == 1 else f"{short} #{seen[short]}", seconds, shown
