"""The CPU report as a page and as a plot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

Results = dict[str, Any]
Row = dict[str, Any]
OURS = "fast-cpu"
LABELS = {
    OURS: "convnextv2_fast",
    "compile": "torch.compile",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "masked-dense": "masked dense",
    "masked-dense-compile": "masked dense, torch.compile",
}


def groups(rows: list[Row]) -> dict[str, dict[str, Row]]:
    """Rows by case, then provider."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row["case"], {})[row["provider"]] = row
    return found


def lead(group: dict[str, Row]) -> tuple[float, str] | None:
    """How many times faster ours is than the fastest peer of the group, and which that is."""
    timed = {name: row["ms"] for name, row in group.items() if "ms" in row}
    peers = {name: ms for name, ms in timed.items() if name != OURS}
    if OURS not in timed or not peers:
        return None
    fastest = min(peers, key=lambda name: peers[name])
    return peers[fastest] / timed[OURS], fastest


def exponent(times: dict[str, float]) -> float:
    """The slope of log time over log size, by least squares."""
    xs, ys = [math.log(float(k)) for k in times], [math.log(v) for v in times.values()]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)) / sum((x - mx) ** 2 for x in xs)
    return round(slope, 3)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def _speed(rows: list[Row]) -> list[str]:
    names = list(dict.fromkeys(row["provider"] for row in rows))
    lines = []
    for group in groups(rows).values():
        first = next(iter(group.values()))
        cells = [f"{first['model']}, batch {first['batch']}, {first['precision']}"]
        for name in names:
            row = group.get(name, {})
            cells.append(f"{row['ms_per_image']:.2f} ({row['best_ms'] / row['batch']:.2f})" if "ms" in row else "-")
        found = lead(group)
        cells.append(f"{found[0]:.2f}x {LABELS.get(found[1], found[1])}" if found else "-")
        ours = group.get(OURS, {})
        cells.append(f"{100 * ours['roofline_share']:.0f} %" if "roofline_share" in ours else "-")
        lines.append(cells)
    head = [
        "ms per image, median (best)",
        *(LABELS.get(n, n) for n in names),
        "ours against the fastest peer",
        "roofline",
    ]
    return _table(head, lines)


def markdown(results: Results) -> str:
    """The whole report."""
    m = results["machine"]
    lines = [f"# CPU report, {results['date']}", ""]
    lines.append(
        f"{m['cpu']}, {m['threads']} threads, {m['cpu_isa']}; torch {m['torch']}. Commit "
        f"{results['commit'] or 'unversioned'}{' with changes' if results['dirty'] else ''}."
    )
    for precision, limit in results["limits"].items():
        lines.append(
            f"Measured limits, {precision}: copy {limit['copy_gb_per_s']:.1f} GB/s, matrix products "
            f"{limit['gemm_gflop_per_s']:.0f} GFLOP/s (the roofline of the last column)."
        )
    lines.append("")
    for name, title in (
        ("inference", "Inference"),
        ("training", "Training step"),
        ("pretraining", "FCMAE step"),
        ("sizes", "All sizes, batch 1"),
    ):
        if name in results:
            lines += [f"## {title}", "", *_speed(results[name])]
            skipped = {(r["provider"], r["reason"]) for r in results[name] if "reason" in r}
            lines += [f"{LABELS.get(who, who)}: {why}." for who, why in sorted(skipped)] + [""] * bool(skipped)
    if "weight_gradient" in results:
        rows = [
            [
                f"C={r['c']}, {r['side']}x{r['side']}",
                f"{r['ms'][OURS]:.2f}",
                f"{r['ms']['torch']:.2f}",
                f"{r['ratio']:.1f}x",
            ]
            for r in results["weight_gradient"]
        ]
        lines += [
            "## Depthwise weight gradient, batch 8, float32",
            "",
            *_table(["", "ours, ms", "PyTorch, ms", ""], rows),
        ]
    if "memory" in results:
        ours, eager = results["memory"][OURS], results["memory"]["eager"]
        lines += [
            "## Memory of a training step, tiny, batch 8",
            "",
            f"Resident peak above parameters, gradients and input: ours {ours:.0f} MiB, eager {eager:.0f} MiB "
            f"({eager / ours:.1f} times less).",
            "",
        ]
    if "growth" in results:
        g = results["growth"]
        lines += [
            "## Growth",
            "",
            *_table(["atto, batch", *g["batch"]], [["ms", *(f"{v:.1f}" for v in g["batch"].values())]]),
            *_table(["atto, pixels", *g["pixels"]], [["ms", *(f"{v:.1f}" for v in g["pixels"].values())]]),
            f"Time grows as batch^{exponent(g['batch'])} and as side^{exponent(g['pixels'])} (2 is linear in the "
            f"area). tiny, batch 8: {g['threads']['1']:.0f} ms on one thread, {g['threads']['2']:.0f} ms on two, "
            f"{g['threads']['1'] / g['threads']['2']:.2f} times faster.",
            "",
        ]
    return "\n".join(lines)


def plot(results: Results, path: Path) -> None:
    """Bars of images per second, relative to eager, for inference and training in float32."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    chosen = [("inference", g) for g in groups(results.get("inference", [])).values()]
    chosen += [("training", g) for g in groups(results.get("training", [])).values()]
    chosen = [(what, g) for what, g in chosen if next(iter(g.values()))["precision"] == "float32"]
    if not chosen:
        return
    figure, axes = pyplot.subplots(1, len(chosen), figsize=(2.5 * len(chosen), 3.4), sharey=False)
    for axis, (what, group) in zip(axes if len(chosen) > 1 else [axes], chosen, strict=True):
        timed = {name: row for name, row in group.items() if "ms" in row}
        first = next(iter(timed.values()))
        rates = [1e3 * row["batch"] / row["ms"] for row in timed.values()]
        colours = ["#2b6cb0" if name == OURS else "#cbd5e0" for name in timed]
        bars = axis.bar(range(len(timed)), rates, color=colours)
        axis.bar_label(bars, [f"{rate:.3g}" for rate in rates], fontsize=7)
        axis.set_xticks(range(len(timed)), [LABELS.get(n, n) for n in timed], rotation=60, ha="right", fontsize=7)
        axis.set_title(f"{first['model']}, batch {first['batch']}\n{what}", fontsize=9)
        axis.tick_params(axis="y", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    (axes[0] if len(chosen) > 1 else axes).set_ylabel("images per second", fontsize=8)
    m = results["machine"]
    figure.suptitle(
        f"float32, 224 x 224, {m['cpu']}, {m['threads']} threads; medians of interleaved rounds", fontsize=8
    )
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
