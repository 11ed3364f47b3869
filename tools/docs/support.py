"""Which platform has run what: the one table of README and of backends.md."""

from __future__ import annotations

import csv

from benchmarks.reports import tidy
from benchmarks.reports.program import table

_HEAD = ("where, or what", "backend", "has run there", "how it is tested")
_ROWS = (
    (
        "Linux, x86-64 CPU (SSE2, AVX2, AVX-512, AMX)",
        "`cpu` (C++)",
        "yes: AMD EPYC, Intel Xeon",
        "every operation, in each memory layout and dtype, compared with float64, on each instruction set of the "
        "machine",
    ),
    (
        "products on AMX of `patch_conv` and of backward passes",
        "`cpu` (C++)",
        "**never**",
        "with AMX's instructions emulated, compared with float64",
    ),
    (
        "Linux, NVIDIA H100",
        "`cuda` (C++), `triton`",
        "yes, on 27 November 2026",
        "every operation, in each memory layout and dtype, compared with float64; blocks; models",
    ),
    (
        "the newer operators of a whole block and of `patch_conv`, which `cuda` prefers on every GPU",
        "`cuda` (C++)",
        "**never**",
        "in an emulator on a CPU, compared with float64; the kernels that they call are mostly those of 27 November",
    ),
    (
        "CUDA graphs: `convnextv2_fast.graphs`, `freeze` on a GPU, `--cuda_graph`",
        "any",
        "**never**",
        "on CPUs, where a recording of operators takes the place of a graph; on fake CUDA tensors",
    ),
    (
        "Linux, other NVIDIA GPUs, compute capability 8.0 to 12.0",
        "`cuda` (C++), `triton`",
        "**never**",
        "compiled for each; kernels run in an emulator on a CPU, compared with float64",
    ),
    (
        "Linux, AMD GPU (gfx942)",
        "`triton`, only if you ask for it",
        "**never**",
        "compiled; kernels run in Triton's interpreter on a CPU, compared with float64",
    ),
    ("several GPUs (DDP, FSDP2)", "any", "**never**", "several processes on CPUs"),
    ("`pretrain`, `finetune` on a GPU", "any", "**never**", "on CPUs"),
    (
        "accelerated timm and transformers models on a GPU",
        "any",
        "**never**",
        "on CPUs; on fake CUDA tensors, where shapes and dtypes are checked and nothing is computed",
    ),
    ("Linux, aarch64 CPU", "`cpu` (C++)", "**never**", "not tested"),
    ("macOS, Windows", "`torch` (plain PyTorch)", "**never**", "not tested"),
)


def _h100() -> str:
    """What the newest run of the device tests on an H100 said."""
    for path in sorted(tidy.RESULTS.glob("*h100*.parts.csv"), reverse=True):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["part"] == "tests":
                    return f"The device tests (`pytest -m cuda`) on the H100: {row['note']}."
    raise FileNotFoundError("no committed result has a run of the device tests")


def matrix() -> str:
    """Platform by backend: whether it has run there, and how it is tested."""
    return "\n".join([*table(_HEAD, _ROWS), "", _h100()])
