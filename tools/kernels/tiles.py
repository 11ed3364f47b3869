"""Writes the exceptions to the rule of tiles: for each family, kernel, dtype and width of the eight models the first
candidate, the rule's before the others, whose every launch compiles without a spill within the family's shared memory.

python -m tools.kernels.tiles [family ...]      chooses the tiles of these families, or of all (hours), anew
"""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack

import torch

from convnextv2_fast.ops._triton import chip as chips
from convnextv2_fast.ops._triton import tiles
from convnextv2_fast.ops._triton.tiles import WIDEST, WIDTHS, Sizes
from convnextv2_fast.testing import kinds, make

from .compiling import Job, compile_one, launches
from .resources import FAMILIES, passes
from .variants import KERNELS

Key = tuple[str, str, str, int]  # family, kernel, "half" or "float32", width
SWEEPS = ("plain", "norm", "train", "params")
# Anything that compiles, for the kernels that are not being chosen.
ANY: dict[str, Sizes] = {f"mlp_grn {k}": (32, 0 if k == "fused" else 32, 16, 4, 1, 0) for k in KERNELS}
ANY |= {f"dwconv {k}": (4, 0 if k in ("norm", "train") else 16) for k in SWEEPS}


def candidates(kernel: str, family: str, c: int, wide: bool) -> Iterator[Sizes]:
    """The rule's tile, then smaller and other ones, the likeliest to be fast first."""
    first = tiles.rule(kernel, family, c, wide)
    op, name, *_ = kernel.split()
    if op == "dwconv":
        channels = first[1]
        yield from ((columns, part) for columns in (4, 2, 1) for part in dict.fromkeys((channels, channels // 2)))
        return
    rows, columns, depth, _, stages, persistent = first
    if name == "fused":
        for fewer in (64, 32, 16) if wide else (128, 64, 32, 16):
            for part in (16,) if wide else (32, 16):
                for warps in (4, 8) if wide or (fewer == 128 and c <= 64) else (8, 4):
                    for ahead in (1,) if wide else (2, 1):
                        yield fewer, 0, part, warps, ahead, persistent
        yield 16, 0, 16, 8, 2, persistent
        return
    yield first
    for fewer in (rows, rows // 2, rows // 4):
        for part in dict.fromkeys((depth, 32, 16)):
            warps = 4 if fewer * columns <= 4096 else 8
            for ahead in (stages, stages - 1):
                yield fewer, columns, part, warps, ahead, persistent
                yield fewer, columns, part, 12 - warps, ahead, persistent


def _absent(job: Job, argument: str) -> bool:
    return dict(job.constants).get(argument, 0) is None


# The launches of a kernel among all of its op.
WANTED: dict[str, Callable[[Job], bool]] = {
    **{f"mlp_grn {part}": lambda job, part=part: job.kernel == f"{part}_kernel" for part in KERNELS},  # type: ignore[misc]
    "dwconv plain": lambda job: job.kernel == "sweep_kernel" and _absent(job, "out_ptr"),
    "dwconv norm": lambda job: job.kernel == "sweep_kernel" and _absent(job, "z_ptr"),
    "dwconv train": lambda job: (
        job.kernel == "sweep_kernel" and not _absent(job, "z_ptr") and not _absent(job, "out_ptr")
    ),
    "dwconv params": lambda job: job.kernel == "parameters_kernel",
}


def _launches(kernel: str, sizes: Sizes, family: str, c: int, dtype: torch.dtype) -> list[Job]:
    """All launches of the kernel with these sizes, forward and backward."""
    name = kernel.removesuffix(" tma")
    op = "mlp_grn" if name.startswith("mlp_grn") else "dwconv_layer_norm"
    layouts = kinds(op) if c == 96 else ("dense",)  # those that tools.kernels.resources compiles
    problems = [make(op, 1, 8, 8, c, kind).to(dtype) for kind in layouts]
    for problem in problems:
        problem.tensors.pop("row_scale", None)
    strategies = [{}] if op != "mlp_grn" else [{"strategy": "materialize"}]
    if op == "mlp_grn" and c <= WIDEST["mlp_grn fused"]:
        strategies.append({"strategy": "recompute"})

    def call() -> None:
        for problem, extra in itertools.product(problems, strategies):
            passes(problem, **extra)

    with ExitStack() as stack:
        stack.enter_context(chips.assume(chips.KNOWN[family]))
        for other, fallback in ANY.items():
            stack.enter_context(tiles.force(other, sizes if other == name else fallback))
        return [job for job in launches(call) if WANTED[name](job)]


def choose(key: Key) -> Sizes | None:
    """The first candidate that fits, or None."""
    family, kernel, kind, c = key
    dtype = torch.float32 if kind == "float32" else torch.bfloat16
    for sizes in candidates(kernel, family, c, kind == "float32"):
        jobs = _launches(kernel, sizes, family, c, dtype)
        assert jobs, key
        try:
            results = [compile_one(job, family) for job in jobs]
        except Exception:  # a compiler that gives up: the next one
            continue
        if all(r.spills == 0 and r.shared <= chips.KNOWN[family].shared for r in results):
            return sizes
    return None


def keys(families: tuple[str, ...]) -> Iterator[Key]:
    """Everything that a tile is chosen for."""
    for family in families:
        for kind in ("half", "float32"):
            for kernel in [*ANY, *(f"mlp_grn {k} tma" for k in KERNELS if chips.KNOWN[family].tma and kind == "half")]:
                widest = WIDEST.get(kernel.removesuffix(" tma"), WIDTHS[-1])
                yield from ((family, kernel, kind, c) for c in WIDTHS if c <= widest)


def write(found: dict[Key, Sizes]) -> None:
    """The table, without what the rule says too: a line for each tile, with its widths."""
    widths: dict[tuple[str, str, str, Sizes], list[int]] = defaultdict(list)
    for (family, kernel, kind, c), sizes in sorted(found.items()):
        if sizes != tiles.rule(kernel, family, c, kind == "float32"):
            widths[family, kernel, kind, sizes].append(c)
    lines = ["family\tkernel\tdtype\twidths\tsizes"]
    for (*place, sizes), each in sorted(widths.items(), key=lambda item: (item[0][:3], item[1])):
        lines.append("\t".join([*place, " ".join(map(str, each)), " ".join(map(str, sizes))]))
    tiles.EXCEPTIONS.write_text("\n".join(lines) + "\n")


def main(families: tuple[str, ...]) -> int:
    """0, or 1 if no candidate fits somewhere."""
    found = {key: sizes for key, sizes in tiles.exceptions().items() if key[0] not in families}
    todo, failed = list(keys(families)), False
    with ProcessPoolExecutor(2) as pool:
        for key, best in zip(todo, pool.map(choose, todo, chunksize=4), strict=True):
            print(*key, best, flush=True)
            failed |= best is None
            if best is not None:
                found[key] = best
    write(found)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(tuple(sys.argv[1:]) or FAMILIES))
