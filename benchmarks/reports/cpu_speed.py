"""The CPU report's rows of whole models: whose they are, which belong together, and their tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ..suite.roofline import model_work
from .naming import OURS
from .program import Rows, table
from .tidy import Row

FROZEN, ACCELERATED = f"{OURS}, frozen", "timm, accelerated"
MINE = {OURS: "ours", FROZEN: "ours, frozen", ACCELERATED: ACCELERATED}  # and what tables call them
_OWN = {"frozen": FROZEN, "accelerated timm": ACCELERATED}
LABELS = {
    ("upstream", "eager"): "eager",
    ("upstream", "channels_last"): "channels_last",
    ("upstream", "compile"): "torch.compile",
    ("timm", "eager"): "timm",
    ("timm", "compile"): "timm, torch.compile",
    ("onnxruntime", ""): "ONNX Runtime",
    ("openvino", ""): "OpenVINO",
    ("masked-dense", "eager"): "masked dense",
    ("masked-dense", "compile"): "masked dense, torch.compile",
}
PEAK = "multiply_add"  # the case of the peak's rows
STD1 = "-init_upstream"  # in the case of an FCMAE step: weights with a standard deviation of 1


def label(row: Row) -> str:
    """Whose code, as a reader knows it."""
    return _OWN.get(row.mode, OURS) if row.provider == OURS else LABELS[row.provider, row.mode]


def fair(rows: Rows) -> list[Row]:
    """The rows that may stand beside each other: without runtimes whose threads shared a process with ours, which slows
    them."""
    return [row for row in rows if "turns" in row.notes or row.provider not in ("onnxruntime", "openvino")]


def of(rows: Rows, part: str) -> list[Row]:
    """The rows of one part."""
    return [row for row in fair(rows) if row.part == part]


def groups(rows: Rows) -> Iterator[dict[str, Row]]:
    """The rows that were timed together, by label."""
    found: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in fair(rows):
        found.setdefault((row.part, row.case, row.batch, row.dtype), {})[label(row)] = row
    yield from found.values()


def milliseconds(row: Row) -> float:
    """Of a row that has a time."""
    assert row.ms is not None, row.key
    return row.ms


def per_image(row: Row) -> float:
    """Milliseconds per image."""
    return milliseconds(row) / (row.batch or 1)


def lead(group: Mapping[str, Row], whose: str = OURS) -> tuple[str, float] | None:
    """Returns the label of a group's fastest peer, and its time divided by that of our row labelled `whose`."""
    peers = {name: row.ms for name, row in group.items() if name not in MINE and row.ms}
    if whose not in group or not peers:
        return None
    fastest = min(peers, key=lambda name: peers[name])
    return fastest, peers[fastest] / milliseconds(group[whose])


def model(row: Row) -> str:
    """The size: atto of convnextv2_atto-224px-forward."""
    return re.split(r"[_-]", row.case)[1] + (", std 1" if STD1 in row.case else "")


def taken(rows: Rows) -> str:
    """How the times were taken, as a sentence."""
    turns = sorted({int(row.notes["turns"]) for row in rows if "turns" in row.notes})
    if turns:
        number = " or ".join(map(str, turns))
        return f"Each provider ran alone in a process of its own, in turn; medians of {number} turns."
    return (
        "Rounds of all providers were interleaved in one process; medians. Runtimes with threads of their own (ONNX "
        "Runtime, OpenVINO) are slowed by that and are left out."
    )


def peaks(rows: Rows) -> dict[str, float]:
    """Operations per second of the CPU's own multiply-add instructions on all threads, by dtype, where measured."""
    found: dict[str, float] = {}
    for row in of(rows, "ceilings"):
        if row.case == PEAK:
            found[row.dtype] = max(1e12 * float(row.notes["tflop_per_s"]), found.get(row.dtype, 0.0))
    return found


def peak_share(row: Row, limits: Mapping[str, float]) -> float | None:
    """The share of the peak that a dense model's convolutions and matrix products make of a row's time: counted as in
    `suite.roofline`, at the peak of bfloat16 pairs for `amp`. None where the peak is not known."""
    found = re.match(r"convnextv2_(\w+)-(\d+)px-forward(_backward)?$", row.case)
    limit = limits.get("bfloat16" if row.dtype == "amp" else row.dtype)
    if found is None or limit is None:
        return None
    work = model_work(found[1], row.batch or 1, int(found[2]), 4, backward=found[3] is not None)
    return work.flops / limit / (milliseconds(row) / 1e3)


def speed(rows: Rows, limits: Mapping[str, float] | None = None) -> list[str]:
    """Milliseconds per image, a line a case, and the fastest rival's ratio to ours.

    Args:
        limits: those of :func:`peaks`. The last column is then the share of the peak that the fastest of ours reaches;
            without them it is our share of the roofline.
    """
    if not any(peak_share(row, limits or {}) for row in rows):
        limits = None
    names = list(dict.fromkeys(label(row) for row in rows))
    rivals = [name for name in names if name not in MINE]
    one = len(rivals) == 1  # then it is no race
    mine = [name for name in names if name in MINE]
    lines = []
    for group in groups(rows):
        first = next(iter(group.values()))
        cells = [model(first), str(first.batch), first.dtype]
        cells += [f"{per_image(group[name]):.2f}" if name in group else "" for name in names]
        found = [lead(group, name) for name in mine]
        cells += [next((each[0] for each in found if each), "")] * (not one)
        cells += [f"{each[1]:.2f}" if each else "" for each in found]
        lines.append([*cells, _share(group, mine, limits or {})])
    rival = rivals[0] if one else "rival"
    head = ["model", "batch", "dtype", *(MINE.get(name, name) for name in names)]
    head += [*(["fastest rival"] * (not one)), *(f"{rival} ÷ {MINE[name]}" for name in mine)]
    return table([*head, "share of the peak" if limits else "share of the roofline"], lines)


def _share(group: Mapping[str, Row], mine: list[str], limits: Mapping[str, float]) -> str:
    if limits:
        own = [row for name in mine if (row := group.get(name)) is not None and row.ms]
        share = peak_share(min(own, key=milliseconds), limits) if own else None
    else:
        noted = group[OURS].notes.get("roofline_share") if OURS in group else None
        share = float(noted) if noted else None
    return "" if share is None else f"{100 * share:.0f} %"


def served(rows: Rows) -> list[str]:
    """Images per second of all callers together, and their share of the best that one caller gets."""
    best: dict[tuple[str, str], float] = {}
    found = []
    for row in rows:
        mode, _, how = row.mode.partition(", ")
        name = _OWN.get(mode, OURS) if row.provider == OURS else LABELS[row.provider, mode]
        rate = 1e3 / milliseconds(row)
        found.append((row, name, how, rate))
        if how.startswith("1 caller"):
            best[row.case, name] = max(rate, best.get((row.case, name), 0.0))
    lines = []
    for row, name, how, rate in found:
        single = best.get((row.case, name))
        share = f"{100 * rate / single:.0f} %" if single else ""
        lines.append([model(row), MINE.get(name, name), how, f"{rate:.1f}", share])
    return table(["model", "code", "arrangement", "images/s in total", "of the best single caller"], lines)
