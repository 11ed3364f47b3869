"""Predicts the kernels' time of a pass on a GPU from what they move and compute, and puts measurements beside it.

    python -m benchmarks gpu-model --chip h100 --model tiny --batch 128 --mode forward
    python -m benchmarks gpu-model --host --slowdown 3.5

A line is a kernel, summed over the stage's blocks. "instr. ms" is the time to issue its instructions, or of its
special-function units where that is longer. The measured column has the committed results of single kernels and ops;
one of another batch stands there as it was measured, a call, with the ratio of that batch's prediction to it.
`--host` prints whole steps with the host's part instead, for all chips.
How the model counts, and how far off it is: docs/gpu-model.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..rivals.sizes import SIZES
from . import host, host_tables, tables
from .chips import CHIPS
from .passes import MODES, PROVIDERS, Pass


def markdown() -> str:
    """The generated part of docs/gpu-model.md."""
    parts = (
        "### Whole passes, measured and predicted",
        tables.passes(),
        "### Whole passes, predicted only",
        "Nobody has measured these as time of the GPU alone.",
        tables.unmeasured(),
        tables.sizes(),
        "### Steps with the host's part, predicted",
        f"Predicted, not measured on a GPU. The host is taken to be {host.SLOWDOWN:g} times as slow as the CPU of the "
        "static figures.",
        host_tables.steps(),
        "The same steps on an H100, with slowdowns of 1, 2 and 3.5. Predicted, not measured on a GPU.",
        host_tables.slowdowns(),
        "Steps that were measured while kernels were launched one by one, and what this predicts for them.",
        host_tables.check(),
        "### Where the time goes, predicted",
        tables.shares(),
        "### Single ops, measured and predicted",
        tables.ops(),
    )
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chip", default="h100", help=", ".join(CHIPS))
    parser.add_argument("--model", default="tiny", help=", ".join(SIZES))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--mode", choices=MODES, default="forward")
    parser.add_argument("--dtype", choices=("bfloat16", "amp"), default="", help="forward: bfloat16, else amp")
    parser.add_argument("--provider", choices=PROVIDERS, default="ours")
    parser.add_argument("--resolution", type=int, default=224, help="pixels")
    parser.add_argument("--markdown", action="store_true", help="the tables of docs/gpu-model.md instead")
    parser.add_argument("--instructions", type=float, help="of an element where GELU is computed: not those counted")
    parser.add_argument("--host", action="store_true", help="whole steps of tiny with the host's part")
    parser.add_argument("--slowdown", type=float, default=host.SLOWDOWN, help="of the host, see docs/gpu-model.md")
    options = parser.parse_args(arguments)
    if options.markdown:
        print(markdown())
        return 0
    if options.host:
        print(host_tables.text(options.slowdown, options.instructions))
        return 0
    given = (options.chip, options.model, options.batch, options.mode, options.dtype, options.provider)
    try:
        print(tables.text(Pass(*given, options.resolution, options.instructions)))
    except ValueError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
