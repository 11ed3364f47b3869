"""Every launch that the eight models make, compiled for every family of chips: the table `resources.tsv`.

python -m tests.triton.resources          compares with the table
python -m tests.triton.resources --write  writes it anew
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from convnextv2_fast.models.convnextv2 import SIZES
from convnextv2_fast.ops._triton import chip as chips
from convnextv2_fast.testing import ALL_OPS, kinds, make

from .compiling import Job, Resources, compile_all, launches

TABLE = Path(__file__).with_name("resources.tsv")
FAMILIES = tuple(chips.KNOWN)
WIDTHS = sorted({c for _, dims in SIZES.values() for c in dims})
STRATEGIES = ("materialize", "recompute", "chunked")


def _calls() -> Iterator[tuple[str, int, str, dict[str, str]]]:
    """(op, width, layout, options) of what is compiled: all widths dense, one width in every other layout."""
    for op in ALL_OPS:
        for kind in kinds(op):
            for c in WIDTHS if kind in ("dense", "rows") else (96,):
                for strategy in STRATEGIES if op == "mlp_grn" else (None,):
                    yield op, c, kind, {} if strategy is None else {"strategy": strategy}


def jobs(family: str, dtypes: tuple[torch.dtype, ...]) -> list[Job]:
    """The distinct launches, forward and backward. Planes are small: only constants, types and alignment count."""
    from convnextv2_fast.dispatch import UnsupportedInputError

    found: dict[Job, None] = {}
    with chips.assume(chips.KNOWN[family]):
        for op, c, kind, extra in _calls():
            run = importlib.import_module(f"convnextv2_fast.ops.{op}.triton").run
            for dtype in dtypes:
                problem = make(op, 1, 4, 4, c, kind)
                if op == "patch_conv":  # a model's widths, not the tests' odd ones
                    problem.tensors["weight"] = torch.zeros((2 * c, c, 2, 2) if kind == "dense" else (4, c, 2 * c))
                    problem.tensors["bias"] = torch.zeros(2 * c)
                problem.tensors.pop("row_scale", None)
                leaves = problem.to(dtype)

                def call(leaves=leaves, run=run, extra=extra) -> None:
                    y = leaves.call(run, **extra)
                    y.backward(torch.zeros_like(y))

                try:
                    found |= dict.fromkeys(launches(call))
                except UnsupportedInputError:
                    assert extra  # a strategy that this width or layout does not have
    return list(found)


def compiled(families: tuple[str, ...] = FAMILIES) -> dict[tuple[str, str], Resources | str]:
    """(family, label) to what it takes; a failure to compile is its message."""
    tasks = [(job, family) for family in families for job in jobs(family, (torch.bfloat16, torch.float32))]
    return {(family, job.label()): result for job, family, result in compile_all(tasks)}


def read() -> tuple[str, dict[tuple[str, str], Resources]]:
    """The Triton version of the committed table and its rows."""
    head, _, *lines = TABLE.read_text().splitlines()
    rows = {}
    for line in lines:
        family, label, registers, spills, shared, matrix = line.split("\t")
        rows[family, label] = Resources(int(registers), int(spills), int(shared), matrix)
    return head.removeprefix("# triton "), rows


def write(found: dict[tuple[str, str], Resources | str]) -> None:
    import triton

    lines = [f"# triton {triton.__version__}", "family\tlaunch\tregisters\tspilled bytes\tshared bytes\tmatrix"]
    for (family, label), r in sorted(found.items()):
        assert isinstance(r, Resources), f"{family} {label}: {r}"
        lines.append("\t".join(map(str, (family, label, r.registers, r.spills, r.shared, r.matrix))))
    TABLE.write_text("\n".join(lines) + "\n")


def faults(found: dict[tuple[str, str], Resources | str]) -> list[str]:
    """What breaks the rules: no compilation, a spill, too much shared memory, no matrix instruction where meant."""
    wanted = {"sm_80": "mma.sync", "sm_90": "wgmma", "sm_100": "tcgen05", "sm_120": "mma.sync", "gfx942": "mfma"}
    bad = []
    for (family, label), r in found.items():
        if isinstance(r, str):
            bad.append(f"{family} {label}: {r}")
            continue
        limit = chips.KNOWN[family].shared
        if r.spills or r.shared > limit:
            bad.append(f"{family} {label}: {r.spills} bytes spilled, {r.shared} of {limit} bytes shared")
        multiplies = "IEEE=" in label and " fp32 " not in label and "SECOND=1 KEEP=1" not in label
        if multiplies and not r.matrix.startswith(wanted[family]):
            bad.append(f"{family} {label}: no {wanted[family]}, but {r.matrix or 'no matrix instruction'}")
    return bad


if __name__ == "__main__":
    result = compiled(tuple(a for a in sys.argv[1:] if not a.startswith("-")) or FAMILIES)
    problems = faults(result)
    print(*problems, f"{len(result)} launches, {len(problems)} faults", sep="\n")
    if "--write" in sys.argv and not problems:
        write(result)
