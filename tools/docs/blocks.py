"""The generated parts of the pages: from the library itself, and from the committed results."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks import accelerate_report, numerics_report
from convnextv2_fast import dispatch, environment
from convnextv2_fast.dispatch import Implementation, Spec

from .pages import ROOT

RESULTS = ROOT / "benchmarks" / "results"
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_LAYOUTS = ("dense", "patch", "site")


def newest(kind: str) -> Path:
    """The newest committed result of this kind, JSON.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted(RESULTS.glob(f"{kind}-[0-9]*.json"), key=lambda path: path.stem[-10:])
    if not found:
        raise FileNotFoundError(f"no committed result {kind}-*.json")
    return found[-1]


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _source(path: Path, command: str) -> str:
    name = path.with_suffix(".md").name
    return f"[{path.stem}](../benchmarks/results/{name}), `{command}`."


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(header)
    lines = [head, ["---"] * len(head), *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def variables() -> str:
    """Every environment variable."""
    rows = ((f"`{v.name}`", v.values, v.read, v.meaning) for v in environment.VARIABLES)
    return _table(("variable", "values, default first", "read", "meaning"), rows)


def _able(entry: Implementation, spec: Spec, baseline: Spec) -> bool:
    """Whether the kernels take this call, on a machine where they run at all: no reason but those of any call."""
    return set(entry.reasons(spec)) <= set(entry.reasons(baseline))


def backends() -> str:
    """Op by op, what each backend's own code takes, as its predicate says."""
    rows = []
    for op in dispatch.registered_ops():
        entries = {entry.backend: entry for entry in dispatch.implementations(op)}
        cells = []
        for name in ("cuda", "triton", "cpu", "torch"):
            if name not in entries:
                cells.append("")
                continue
            device = "cpu" if name in ("cpu", "torch") else "cuda"

            def spec(dtype: torch.dtype, layout: str, at: str = device, op: str = op) -> Spec:
                return Spec(op, at, dtype, dtype, 96, layout, True)

            base = spec(torch.float32, "dense")
            dtypes = [d for d in _DTYPES if _able(entries[name], spec(d, "dense"), base)]
            layouts = [kind for kind in _LAYOUTS if _able(entries[name], spec(torch.float32, kind), base)]
            short = ", ".join(str(d).removeprefix("torch.") for d in dtypes)
            cells.append(f"✓ {short}" + ("" if layouts == list(_LAYOUTS) else f"; {', '.join(layouts)} only"))
        rows.append([f"`{op}`", *cells])
    return _table(("op", "cuda", "triton", "cpu", "torch"), rows)


def cpu() -> str:
    """The CPU report as it was written, with its plot."""
    path = newest("cpu")
    report = path.with_suffix(".md").read_text(encoding="utf-8")
    body = report[report.index("\n\n", report.index("# ")) :].strip()
    lines = [f"#{line}" if line.startswith("#") else line for line in body.splitlines() if not line.startswith("![")]
    plot = f"![Images per second on a CPU, float32](../benchmarks/results/{path.stem}.png)"
    return "\n".join([_source(path, "make cpu-report"), "", plot, "", *lines])


def accelerated() -> str:
    """How many times as long a timm or transformers model takes without `accelerate`."""
    path = newest("accelerate")
    results = _read(path)
    times = {(r["model"], r["mode"], r["form"]): r["ms"] for r in results["rows"]}
    rows = []
    for (model, mode, form), ms in times.items():
        if form == accelerate_report.OURS:
            beside = (times[model, mode, other] / ms for other in ("eager", "torch.compile"))
            rows.append([model, mode, f"{ms:.0f}", *(f"{ratio:.2f}x" for ratio in beside)])
    machine = results["machine"]
    head = f"{machine['cpu']}, {machine['threads']} threads, code for {machine['cpu_isa']}. "
    table = _table(("model, batch 8, 224 px, float32", "", "accelerated, ms", "eager", "torch.compile"), rows)
    return f"{head}{_source(path, 'make accelerate-report')}\n\n{table}"


def fcmae() -> str:
    """FCMAE's steps beside masked dense convolution."""
    path = newest("fcmae")
    results = _read(path)
    times = {(r["size"], r["part"], r["provider"]): r["ms"] for r in results["rows"]}
    providers = list(dict.fromkeys(key[2] for key in times))
    rows = []
    for size, part in dict.fromkeys(key[:2] for key in times):
        ms = [times.get((size, part, provider)) for provider in providers]
        rows.append([size, part, *("" if t is None else f"{t:.0f}" for t in ms)])
    head = f"{results['machine']['cpu']}, {results['machine']['threads']} threads. {_source(path, 'make fcmae-report')}"
    return f"{head} Forward and backward, ms:\n\n{_table(('size', 'part', *providers), rows)}"


def _by_name(path: Path, section: str) -> Mapping[str, Mapping[str, float]]:
    """Milliseconds of the rows of a GPU report that were measured, by case and provider."""
    found: dict[str, dict[str, float]] = {}
    for row in _read(path)["rows"]:
        if row["section"] == section and row["status"] == "ok":
            found.setdefault(row["name"], {})[row["provider"]] = row["ms"]
    return found


def _h100(rows: Mapping[str, Mapping[str, float]], providers: Mapping[str, str]) -> str:
    """A table of cases and providers; what was not measured is empty."""
    cells = []
    for name, times in rows.items():
        ms = [f"{times[p]:.3g}" if p in times else "" for p in providers]
        if any(ms):
            cells.append([f"`{name.removesuffix('-cuda')}`", *ms])
    return _table(("ms", *providers.values()), cells)


_OURS = {
    "fast-cuda": "`cuda`",
    "fast-triton": "`triton`",
    "fast-torch": "`torch`, the reference",
    "eager": "eager, NCHW",
}
_VOID = re.compile(r"(block-|convnextv2_|fcmae_).*-forward-")  # of h100-ours: the benchmark had dropped their weights


def h100_ops() -> str:
    """Ops, blocks and training steps on an H100."""
    path = newest("h100-ours")
    rows = {name: times for name, times in _by_name(path, "ours").items() if not _VOID.match(name)}
    table = _h100(rows, {**_OURS, "masked-dense": "masked dense"})
    return f"{_source(path, 'make gpu-report')}\n\n{table}"


def h100_models() -> str:
    """Whole models on an H100."""
    path = newest("h100-models")
    return f"{_source(path, 'python -m benchmarks.gpu_report')}\n\n{_h100(_by_name(path, 'ours'), _OURS)}"


def h100_depthwise() -> str:
    """The depthwise convolution alone beside cuDNN and ATen."""
    path = newest("h100-peers")
    rows = {name: times for name, times in _by_name(path, "peers").items() if name.startswith("dwconv7x7")}
    providers = {"fast-cuda-mma": "`cuda`, mma", "fast-cuda": "`cuda`, fma", "fast-triton": "`triton`"}
    table = _h100(rows, {**providers, "cudnn": "cuDNN", "aten": "ATen"})
    return f"{_source(path, 'make gpu-report')}\n\n{table}"


def numerics() -> str:
    """Errors of the eight models."""
    path = newest("numerics")
    results = _read(path)
    machine = results["machine"]
    rows = results["rows"]
    kept = sum(row["within"] for row in rows)
    worst = max(row["ours"][kind] / row["plain"][kind] for row in rows for kind in row["ours"])
    where = f"{machine['cpu']}, CPU code {machine['cpu_isa']}, torch {machine['torch']}"
    head = f"{where}: {kept} of {len(rows)} rows keep the rule above, the largest ratio is {worst:.2f}. "
    return f"{head}{_source(path, 'make numerics-report')}\n\n" + "\n".join(numerics_report.table(results))


BLOCKS: dict[str, Callable[[], str]] = {
    "environment": variables,
    "backends": backends,
    "cpu": cpu,
    "accelerate": accelerated,
    "fcmae": fcmae,
    "h100-ops": h100_ops,
    "h100-models": h100_models,
    "h100-depthwise": h100_depthwise,
    "numerics": numerics,
}
