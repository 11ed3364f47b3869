"""The launches of the eight models' widths (of some kernels a sample, see below), compiled for every family of chips:
the table `resources.tsv`, which names the sources that it was made from.

python -m tests.triton.resources          compiles all, says what is wrong
python -m tests.triton.resources --write  and writes the table anew
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from convnextv2_fast.models.convnextv2 import SIZES
from convnextv2_fast.ops._mlp_grn.triton_tiles import WIDEST_FUSED
from convnextv2_fast.ops._triton import chip as chips
from convnextv2_fast.testing import KERNEL_OPS, Problem, implementation, kinds, make
from tests.compile_cache import ROOT, digest

from .compiling import Job, Resources, compile_all, launches
from .variants import persistent

TABLE = Path(__file__).with_name("resources.tsv")
FAMILIES = tuple(chips.KNOWN)
WIDTHS = sorted({c for _, dims in SIZES.values() for c in dims})
# Half precision is compiled at every width; float32 and the persistent variants at these, for time. The rest of the
# table was compiled when `choose` wrote it.
SAMPLE = (40, 96, 192, 352, 768)
WIDEST_SWEEPS = (768, 2816)  # above 512 channels the depthwise convolution differs in C alone


def _problems() -> Iterator[tuple[str, int, Problem]]:
    """Every op at all widths, dense, and at one width in every other layout."""
    for op in KERNEL_OPS:
        for i, kind in enumerate(kinds(op)):
            for c in (96,) if i else WIDTHS:
                if op in ("dwconv_layer_norm", "sparse_dwconv") and c > 512 and c not in WIDEST_SWEEPS:
                    continue
                problem = make(op, 1, 8, 8, c, kind)
                if op == "patch_conv":  # a model's widths, not the tests' odd ones
                    problem.tensors["weight"] = torch.zeros((2 * c, c, 2, 2) if kind == "dense" else (4, c, 2 * c))
                    problem.tensors["bias"] = torch.zeros(2 * c)
                problem.tensors.pop("row_scale", None)
                yield op, c, problem


def jobs(families: Sequence[str]) -> list[tuple[Job, str]]:
    """The distinct launches for each family, forward and backward; `chunked` launches what `materialize` does.

    Planes are small: only constants, types and alignment count."""
    found: dict[tuple[Job, str], None] = {}
    for op, c, problem in _problems():
        run = implementation(op, "triton")
        strategies = ("materialize", "recompute") if op == "mlp_grn" else (None,)
        for dtype in (torch.bfloat16, torch.float32) if c in SAMPLE else (torch.bfloat16,):
            leaves = problem.to(dtype)
            for family, strategy in itertools.product(families, strategies):
                if strategy == "recompute" and c > WIDEST_FUSED:
                    continue
                extra, chip = {} if strategy is None else {"strategy": strategy}, chips.KNOWN[family]

                def call(leaves: Problem = leaves, run: Any = run, extra: dict[str, str] = extra) -> None:
                    y = leaves.call(run, **extra)
                    y.backward(torch.zeros_like(y))
                    with torch.no_grad():
                        leaves.call(run, **extra)

                with chips.assume(chip):
                    found |= dict.fromkeys((job, family) for job in launches(call))
                    if strategy is not None and chip.tma and dtype.itemsize == 2 and c in SAMPLE:
                        with persistent(chip, c, dtype):
                            found |= dict.fromkeys((job, family) for job in launches(call))
    return list(found)


def sample(tasks: Sequence[tuple[Job, str]]) -> list[tuple[Job, str]]:
    """A tenth of the launches, and one of every kernel for each family; those of one label together."""
    first: dict[tuple[str, str, str], str] = {}
    for job, family in tasks:
        first.setdefault((family, job.module, job.kernel), job.label())

    def taken(job: Job, family: str) -> bool:
        label = job.label()
        of_ten = hashlib.sha256(f"{family} {label}".encode()).digest()[0] % 10
        return of_ten == 0 or first[family, job.module, job.kernel] == label

    return [task for task in tasks if taken(*task)]


def compiled(tasks: Sequence[tuple[Job, str]]) -> dict[tuple[str, str], Resources | str]:
    """(family, label) to what it takes; a failure to compile is its message."""
    return {(family, job.label()): result for job, family, result in compile_all(tasks)}


def sources() -> str:
    """Digest of all that decides what is launched and compiled."""
    ops = ROOT / "src" / "convnextv2_fast" / "ops"
    return digest([*ops.glob("*/triton*.py"), *ops.glob("_triton/*.py"), *ops.glob("_triton/*.tsv")])


def read() -> tuple[str, str, dict[tuple[str, str], Resources]]:
    """The Triton version of the committed table, its sources and its rows."""
    head, _, *lines = TABLE.read_text().splitlines()
    rows = {}
    for line in lines:
        family, label, registers, spills, shared, matrix = line.split("\t")
        rows[family, label] = Resources(int(registers), int(spills), int(shared), matrix)
    version, _, made_from = head.removeprefix("# triton ").partition(", sources ")
    return version, made_from, rows


def write(found: dict[tuple[str, str], Resources | str]) -> None:
    import triton

    head = f"# triton {triton.__version__}, sources {sources()}"
    lines = [head, "family\tlaunch\tregisters\tspilled bytes\tshared bytes\tmatrix"]
    for (family, label), r in sorted(found.items()):
        assert isinstance(r, Resources), f"{family} {label}: {r}"
        lines.append("\t".join(map(str, (family, label, r.registers, r.spills, r.shared, r.matrix))))
    TABLE.write_text("\n".join(lines) + "\n")


def faults(found: dict[tuple[str, str], Resources | str]) -> list[str]:
    """What breaks the rules: no compilation, a spill, too much shared memory, no matrix instruction where meant.

    Tiles are chosen on the version of Triton that wrote the table; another's compiler may spill a few registers."""
    import triton

    slack = 0 if TABLE.exists() and read()[0] == triton.__version__ else 64
    special = {"sm_90": "wgmma", "sm_100": "tcgen05", "gfx942": "mfma"}
    wanted = {family: special.get(family, "mma.sync") for family in FAMILIES}
    bad = []
    for (family, label), r in found.items():
        if isinstance(r, str):
            bad.append(f"{family} {label}: {r}")
            continue
        limit = chips.KNOWN[family].shared
        if r.spills > slack or r.shared > limit:
            bad.append(f"{family} {label}: {r.spills} bytes spilled, {r.shared} of {limit} bytes shared")
        multiplies = "IEEE=" in label and " fp32 " not in label and "SECOND=1 KEEP=1" not in label
        if multiplies and not r.matrix.startswith(wanted[family]):
            bad.append(f"{family} {label}: no {wanted[family]}, but {r.matrix or 'no matrix instruction'}")
    return bad


if __name__ == "__main__":
    result = compiled(jobs(FAMILIES))
    problems = faults(result)
    print(*problems, f"{len(result)} launches, {len(problems)} faults", sep="\n")
    if "--write" in sys.argv and not problems:
        write(result)
    sys.exit(bool(problems))
