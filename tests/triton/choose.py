"""Writes the table of tiles: for each family, kernel, dtype and width of the eight models the first candidate, the
likeliest to be fast first, whose every launch compiles without a spill within the family's shared memory.

python -m tests.triton.choose [family ...]     adds what the table lacks; --anew chooses everything again
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack

import torch

from convnextv2_fast.ops._mlp_grn.triton_tiles import WIDEST_FUSED
from convnextv2_fast.ops._triton import chip as chips
from convnextv2_fast.ops._triton import tiles
from convnextv2_fast.testing import implementation, make

from .compiling import compile_one, launches
from .resources import FAMILIES, WIDTHS
from .variants import KERNELS

Sizes = tuple[int, ...]
SWEEPS = ("plain", "norm", "train", "params")
# Anything that compiles, for the kernels that are not being chosen.
ANY = {f"mlp_grn {k}": (32, 0 if k == "fused" else 32, 16, 4, 1, 0) for k in KERNELS}
ANY |= {f"dwconv {k}": (4, 0 if k in ("norm", "train") else 16) for k in SWEEPS}


def candidates(kernel: str, family: str, c: int, wide: bool) -> Iterator[Sizes]:
    """Rows, columns, depth, warps, stages, persistent; of "dwconv" columns and channels."""
    op, _, name = kernel.partition(" ")
    if op == "dwconv":
        channels = 0 if name in ("norm", "train") else min((64, 32, 16), key=lambda b: (-(-c // b) * b, -b))
        yield from ((columns, part) for columns in (4, 2, 1) for part in dict.fromkeys((channels, channels // 2)))
        return
    name, _, variant = name.partition(" ")
    persistent = int(variant == "tma")
    if name == "fused":
        for rows in (64, 32, 16) if wide else (128, 64, 32, 16):
            for depth in (16,) if wide else (32, 16):
                for warps in (4, 8) if wide or (rows == 128 and c <= 64) else (8, 4):
                    for stages in (1,) if wide else (2, 1):
                        yield rows, 0, depth, warps, stages, persistent
        yield 16, 0, 16, 8, 2, persistent
        return
    k = c if name == "output" else 4 * c  # what the columns must cover
    widest = 64 if wide else 128
    columns = next((n for n in (128, 64) if n <= widest and k % n == 0), 32)
    depth = 32 if wide or (c % 64 and name != "output") or family in ("sm_89", "sm_120", "gfx942") else 64
    for rows in (64, 32, 16) if wide or name == "backward" else (128, 64, 32):
        for d in dict.fromkeys((depth, 32, 16)):
            warps = 4 if rows * columns <= 4096 else 8
            for stages in (2, 1) if wide else (3, 2):
                yield rows, columns, d, warps, stages, persistent
                yield rows, columns, d, 12 - warps, stages, persistent


def _launches(kernel: str, sizes: Sizes, family: str, c: int, dtype: torch.dtype) -> list:
    """All launches of the kernel with these sizes, forward and backward."""
    name = kernel.removesuffix(" tma")
    op = "mlp_grn" if name.startswith("mlp_grn") else "dwconv_layer_norm"
    run = implementation(op, "triton")
    problems = [make(op, 1, 8, 8, c, kind).to(dtype) for kind in (("dense", "ragged") if c == 96 else ("dense",))]
    for problem in problems:
        problem.tensors.pop("row_scale", None)
    strategies = [{}] if op != "mlp_grn" else [{"strategy": "materialize"}]
    if op == "mlp_grn" and c <= WIDEST_FUSED:
        strategies.append({"strategy": "recompute"})
    found = {}

    def call() -> None:
        for leaves, extra in itertools.product(problems, strategies):
            y = leaves.call(run, **extra)
            y.backward(torch.zeros_like(y))
            with torch.no_grad():
                leaves.call(run, **extra)

    with ExitStack() as stack:
        stack.enter_context(chips.assume(chips.KNOWN[family]))
        for other, fallback in ANY.items():
            stack.enter_context(tiles.force(other, sizes if other == name else fallback))
        found = dict.fromkeys(launches(call))
    parts = {
        "hidden": "hidden_kernel",
        "output": "output_kernel",
        "fused": "fused_kernel",
        "backward": "backward_kernel",
    }
    if op == "mlp_grn":
        return [job for job in found if job.kernel == parts[name.split()[1]]]
    absent = lambda job, arg: dict(job.constants).get(arg, 0) is None  # noqa: E731
    wanted = {
        "plain": lambda j: j.kernel == "sweep_kernel" and absent(j, "out_ptr"),
        "norm": lambda j: j.kernel == "sweep_kernel" and absent(j, "z_ptr"),
        "train": lambda j: j.kernel == "sweep_kernel" and not absent(j, "z_ptr") and not absent(j, "out_ptr"),
        "params": lambda j: j.kernel == "parameters_kernel",
    }[name.split()[1]]
    return [job for job in found if wanted(job)]


def choose(key: tuple[str, str, str, int]) -> Sizes | None:
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


def keys(families: tuple[str, ...]) -> Iterator[tuple[str, str, str, int]]:
    for family in families:
        for kind in ("half", "float32"):
            for kernel in [*ANY, *(f"mlp_grn {k} tma" for k in KERNELS if chips.KNOWN[family].tma and kind == "half")]:
                for c in WIDTHS:
                    too_wide = ("fused" in kernel and c > WIDEST_FUSED) or (kernel[7:] in ("norm", "train") and c > 512)
                    if not too_wide:
                        yield family, kernel, kind, c


def main(families: tuple[str, ...], anew: bool) -> int:
    """0, or 1 if no candidate fits somewhere."""
    known = tiles.table() if tiles.TABLE.exists() else {}
    found = {(*key, c): sizes for key, widths in known.items() for c, sizes in widths.items()}
    todo = [key for key in keys(families) if anew or key not in found]
    failed = 0
    with ProcessPoolExecutor(2) as pool:
        for key, best in zip(todo, pool.map(choose, todo, chunksize=4), strict=True):
            print(*key, best, flush=True)
            found.pop(key, None)
            failed |= best is None
            if best is not None:
                found[key] = best
    head = (
        "family\tkernel\tdtype\tC\tsizes: rows, columns, depth, warps, stages, persistent; of dwconv columns, channels"
    )
    tiles.TABLE.write_text("\n".join([head, *("\t".join(map(str, (*k, *v))) for k, v in sorted(found.items()))]) + "\n")
    return failed


if __name__ == "__main__":
    sys.exit(main(tuple(a for a in sys.argv[1:] if not a.startswith("-")) or FAMILIES, "--anew" in sys.argv))
