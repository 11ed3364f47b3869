"""The generated parts of the pages: here those from the library itself, in results.py those from committed results."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.kernel_model import __main__ as gpu_model
from benchmarks.reports.program import table
from convnextv2_fast import dispatch, environment
from convnextv2_fast.dispatch import Implementation, Spec
from convnextv2_fast.testing import KERNEL_OPS
from tests.static_figures import figures

from . import gpu, op_map, results, support

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_LAYOUTS = ("dense", "patch", "site")


def variables() -> str:
    """Every environment variable."""
    rows = ((f"`{v.name}`", v.values, v.read, v.meaning) for v in environment.VARIABLES)
    return "\n".join(table(("variable", "values, default first", "read", "meaning"), rows))


def _able(entry: Implementation, spec: Spec, baseline: Spec) -> bool:
    """Whether the kernels take this call, on a machine where they run at all: no reason but those of any call."""
    return set(entry.reasons(spec)) <= set(entry.reasons(baseline))


def backends() -> str:
    """Op by op, what each backend's own code takes, as its predicate says."""
    rows = []
    for op in KERNEL_OPS:
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
    return "\n".join(table(("op", "cuda", "triton", "cpu", "torch"), rows))


BLOCKS: dict[str, Callable[[], str]] = {
    "environment": variables,
    "backends": backends,
    "gpu-model": gpu_model.markdown,
    "op-map": op_map.op_map,
    "support": support.matrix,
    "gpu-unmeasured": gpu.unmeasured,
    "gpu-account": gpu.account,
    "static-figures": figures.page,
    **results.BLOCKS,
}
