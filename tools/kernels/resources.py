"""What the Triton kernels take of each family of chips: the launches of the eight models' widths (of some kernels a
sample, see below), compiled without a GPU. `tests/triton/resources.tsv` has the most that any launch of each
kernel takes.

python -m tools.kernels.resources          compiles what the table does not cover, says what is wrong
python -m tools.kernels.resources --all    compiles everything
python -m tools.kernels.resources --write  and writes the table

A row is a kernel. It is valid as long as its `source` (the text of the kernel and of what it calls, without comments)
and its `launches` (constants, types, alignment, warps and stages of each, by family) are the same, wherever they lie.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from convnextv2_fast.ops._triton import chip as chips
from convnextv2_fast.ops._triton.tiles import WIDEST, WIDTHS
from convnextv2_fast.testing import KERNEL_OPS, Problem, kinds, make

from .compiling import Job, Resources, compile_all, launches
from .sources import Kernel, digest, kernel
from .variants import persistent

TABLE = Path(__file__).resolve().parents[2] / "tests" / "triton" / "resources.tsv"
FAMILIES = tuple(chips.KNOWN)
# Half precision is compiled at every width; float32 and the persistent variants at these, for time. The rest of the
# table of tiles was compiled when `tools.kernels.tiles` wrote it.
SAMPLE = (40, 96, 192, 352, 768)
WIDEST_SWEEPS = (768, 2816)  # above 512 channels the depthwise convolution differs in C alone
FIGURES = ("registers", "spills", "shared")
Task = tuple[Job, str]  # and the family that it is for


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


def passes(problem: Problem, **extra: Any) -> None:
    """Forward with backward, and forward alone, on Triton."""
    y = problem.public(backend="triton", **extra)
    y.backward(torch.zeros_like(y))
    with torch.no_grad():
        problem.public(backend="triton", **extra)


def jobs(families: Sequence[str]) -> list[Task]:
    """The distinct launches for each family, forward and backward; `chunked` launches what `materialize` does.

    Planes are small: only constants, types and alignment count."""
    found: dict[Task, None] = {}
    for op, c, problem in _problems():
        strategies = ("materialize", "recompute") if op == "mlp_grn" else (None,)
        for dtype in (torch.bfloat16, torch.float32) if c in SAMPLE else (torch.bfloat16,):
            leaves = problem.to(dtype)
            for family, strategy in itertools.product(families, strategies):
                if strategy == "recompute" and c > WIDEST["mlp_grn fused"]:
                    continue
                extra, chip = {} if strategy is None else {"strategy": strategy}, chips.KNOWN[family]
                call = functools.partial(passes, leaves, **extra)
                with chips.assume(chip):
                    found |= dict.fromkeys((job, family) for job in launches(call))
                    if strategy is not None and chip.tma and dtype.itemsize == 2 and c in SAMPLE:
                        with persistent(chip, c, dtype):
                            found |= dict.fromkeys((job, family) for job in launches(call))
    return list(found)


def sample(tasks: Sequence[Task]) -> list[Task]:
    """A tenth of the launches, and one of every kernel for each family; those of one label together."""
    first: dict[tuple[str, str, str], str] = {}
    for job, family in tasks:
        first.setdefault((family, job.module, job.kernel), job.label())

    def taken(job: Job, family: str) -> bool:
        label = job.label()
        of_ten = hashlib.sha256(f"{family} {label}".encode()).digest()[0] % 10
        return of_ten == 0 or first[family, job.module, job.kernel] == label

    return [task for task in tasks if taken(*task)]


def by_kernel(tasks: Sequence[Task]) -> dict[Kernel, list[Task]]:
    """The launches of each kernel."""
    found: dict[Kernel, list[Task]] = defaultdict(list)
    for job, family in tasks:
        found[kernel(job.module, job.kernel)].append((job, family))
    return found


@dataclass(frozen=True)
class Row:
    """`launches` is :func:`distinct`; `most` has, by family, the largest of each of `FIGURES`."""

    launches: str
    most: dict[str, tuple[int, ...]]

    def exceeded(self, family: str, taken: Resources) -> bool:
        """Whether a launch takes more of anything than any did when the row was written."""
        return any(now > most for now, most in zip(figures(taken), self.most[family], strict=True))


def figures(taken: Resources) -> tuple[int, ...]:
    return tuple(getattr(taken, name) for name in FIGURES)


def distinct(tasks: Sequence[Task]) -> str:
    """The digest of the launches of a kernel: all that their code depends on beside the kernel's text."""
    parts = {f"{family} {(j.signature, j.constants, j.aligned, j.options)}" for j, family in tasks}
    return digest("\n".join(sorted(parts)))


def compiled(tasks: Sequence[Task]) -> dict[tuple[str, Job], Resources | str]:
    """What each launch takes; a failure to compile is its message."""
    return {(family, job): result for job, family, result in compile_all(tasks)}


def row(tasks: Sequence[Task], found: dict[tuple[str, Job], Resources | str]) -> Row:
    """The row of one kernel."""
    taken: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for job, family in tasks:
        each = found[family, job]
        assert isinstance(each, Resources), f"{family} {job.label()}: {each}"
        taken[family].append(figures(each))
    return Row(distinct(tasks), {family: tuple(map(max, zip(*rows, strict=True))) for family, rows in taken.items()})


def read() -> tuple[str, dict[Kernel, Row]]:
    """The Triton version of the committed table, and its rows."""
    head, columns, *lines = TABLE.read_text().splitlines()
    families = [name.partition(":")[0] for name in columns.split("\t")[3:]]
    rows = {}
    for line in lines:
        name, source, launched, *cells = line.split("\t")
        most = {family: tuple(map(int, cell.split())) for family, cell in zip(families, cells, strict=True) if cell}
        rows[Kernel(name, source)] = Row(launched, most)
    return head.removeprefix("# triton "), rows


def write(rows: dict[Kernel, Row]) -> None:
    import triton

    columns = [f"{family}: {', '.join(FIGURES)}" for family in FAMILIES]
    lines = [f"# triton {triton.__version__}", "\t".join(["kernel", "source", "launches", *columns])]
    for key, each in sorted(rows.items(), key=lambda item: (item[0].name, item[0].source)):
        cells = (" ".join(map(str, each.most.get(family, ()))) for family in FAMILIES)
        lines.append("\t".join([key.name, key.source, each.launches, *cells]))
    TABLE.write_text("\n".join(lines) + "\n")


def same_triton() -> bool:
    """Whether the committed table was written with the Triton at hand."""
    import triton

    return TABLE.exists() and read()[0] == triton.__version__


def faults(found: dict[tuple[str, Job], Resources | str]) -> list[str]:
    """What breaks the rules: no compilation, a spill, too much shared memory, no matrix instruction where meant.

    Tiles are chosen on the version of Triton that wrote the table; another's compiler may spill a few registers."""
    slack = 0 if same_triton() else 64
    special = {"sm_90": "wgmma", "sm_100": "tcgen05", "gfx942": "mfma"}
    bad = []
    for (family, job), r in found.items():
        label = job.label()
        if isinstance(r, str):
            bad.append(f"{family} {label}: {r}")
            continue
        limit, wanted = chips.KNOWN[family].shared, special.get(family, "mma.sync")
        if r.spills > slack or r.shared > limit:
            bad.append(f"{family} {label}: {r.spills} bytes spilled, {r.shared} of {limit} bytes shared")
        multiplies = "IEEE=" in label and " fp32 " not in label and "SECOND=1 KEEP=1" not in label
        if multiplies and not r.matrix.startswith(wanted):
            bad.append(f"{family} {label}: no {wanted}, but {r.matrix or 'no matrix instruction'}")
    return bad


def main(arguments: Sequence[str]) -> int:
    """0; 1 if a launch breaks the rules."""
    known = read()[1] if same_triton() and "--all" not in arguments else {}
    kernels = by_kernel(jobs(FAMILIES))
    launched = {key: distinct(tasks) for key, tasks in kernels.items()}
    kept = {key: row for key, row in known.items() if launched.get(key) == row.launches}
    found = compiled([task for key, tasks in kernels.items() if key not in kept for task in tasks])
    bad = faults(found)
    print(*bad, f"{len(found)} launches compiled, {len(kept)} kernels are as they were, {len(bad)} faults", sep="\n")
    if "--write" in arguments and not bad:
        write(kept | {key: row(tasks, found) for key, tasks in kernels.items() if key not in kept})
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
