"""Tables of single ops on an H100: a column for each provider, and how much longer PyTorch takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from benchmarks.reports.naming import OURS
from benchmarks.reports.program import table
from benchmarks.reports.tidy import Row, newest

from .front import ANOTHER, H100, TASKS, link, shown

_ALONE = "dwconv7x7-"  # how cases of the depthwise convolution alone begin
_PASSES = {"forward_backward": "forward and backward", "dgrad": "gradient of input", "wgrad": "gradient of weights"}
_PLAIN = "plain PyTorch"
_BACKENDS = {
    (OURS, "cuda"): "`cuda`",
    (OURS, "triton"): "`triton`",
    (OURS, "torch"): "`torch`",
    ("upstream", "eager"): _PLAIN,
    ("masked-dense", "eager"): _PLAIN,
}
_DEPTHWISE = {
    (OURS, "cuda-mma"): "`cuda`, mma",
    (OURS, "cuda-fma"): "`cuda`, fma",
    (OURS, "triton"): "`triton`",
    ("pytorch", "cudnn"): "cuDNN",
    ("pytorch", "aten"): "ATen",
}
Times = dict[str, float]


def _mode(row: Row) -> str:
    """The mode without how it was launched: "cuda graph" is "cuda"."""
    mode = row.mode.removesuffix(ANOTHER)
    return "eager" if mode == "graph" else mode.removesuffix(" graph")


def _beside(
    rows: Iterable[Row], names: Mapping[tuple[str, str], str], case: Mapping[str, str], ratio: tuple[str, str]
) -> str:
    """Milliseconds, a line for each case and a column for each provider; what was not measured is empty.

    Args:
        rows: those of one process.
        names: the column of a provider and mode; others are left out.
        case: titles of the first columns, and the pattern that finds each in a row's case.
        ratio: the two columns whose quotient is the last column.
    """
    found: dict[str, Times] = {}
    batches, dtypes = set(), set()
    for row in rows:
        if (name := names.get((row.provider, _mode(row)))) and row.ms:
            found.setdefault(row.case, {})[name] = row.ms
            batches.add(row.batch)
            dtypes.add("autocast to bfloat16" if row.dtype == "amp" else row.dtype)
    assert len(batches) == len(dtypes) == 1, "the conditions above the table hold for every line"
    columns = [name for name in dict.fromkeys(names.values()) if any(name in ms for ms in found.values())]
    lines = []
    for text, ms in found.items():
        said = [_words(match[1]) if (match := re.search(pattern, text)) else "" for pattern in case.values()]
        over = f"{ms[ratio[0]] / ms[ratio[1]]:.2f}" if set(ratio) <= set(ms) else ""
        lines.append([*said, *(shown(ms[name]) if name in ms else "" for name in columns), over])
    order = list(dict.fromkeys(line[0] for line in lines))
    lines.sort(key=lambda line: order.index(line[0]))  # lines of one op together, in the order of the file
    head = [*case, *(f"{name}, ms" for name in columns), f"{ratio[0]} ÷ {ratio[1]}"]
    conditions = f"Batch {batches.pop()}, {dtypes.pop()}; milliseconds."
    return "\n".join([conditions, "", *table(head, lines)])


def _words(text: str) -> str:
    """A part of a case's name in words: "56x56x96to192k2" is "56 x 56 x 96 to 192"."""
    if text in _PASSES:
        return _PASSES[text]
    shape = re.fullmatch(r"(\d+)x(\d+)x(\d+)(?:to(\d+)k\d+)?", text)
    if shape:
        return f"{shape[1]} x {shape[2]} x {shape[3]}" + (f" to {shape[4]}" if shape[4] else "")
    return f"`{text}`" if "_" in text or text in ("grn", "block") else text


_PASS = r"-([a-z_]+)$"
_SHAPE = r"-(\d+x\d+x\d+\w*)-"


def steps() -> str:
    """Training and FCMAE steps of tiny by backend, of run B."""
    rows = [row for part in ("training", "pretraining") for row in newest(part, H100)[1] if row.mode.endswith(ANOTHER)]
    text = _beside(rows, _BACKENDS, {"task": r"^(convnextv2|fcmae)_tiny"}, (_PLAIN, "`cuda`"))
    return text.replace("| convnextv2 |", f"| {TASKS['training']} |").replace(
        "| fcmae |", f"| {TASKS['pretraining']} |"
    )


def ops() -> str:
    """Ops and blocks, of run B."""
    path, rows = newest("ops", H100)
    chosen = [row for row in rows if not row.case.startswith(_ALONE)]
    case = {"op": r"^([a-z_]+)-", "map": _SHAPE, "pass": _PASS}
    return f"{_beside(chosen, _BACKENDS, case, (_PLAIN, '`cuda`'))}\n\nAll numbers: [{path.stem}]({link(path, '../')})."


def depthwise() -> str:
    """The depthwise convolution alone beside cuDNN and ATen."""
    path, rows = newest("ops", H100, _ALONE)
    text = _beside(rows, _DEPTHWISE, {"map": _SHAPE, "pass": _PASS}, ("cuDNN", "`cuda`, mma"))
    return f"{text}\n\nAll numbers: [{path.stem}]({link(path, '../')})."
