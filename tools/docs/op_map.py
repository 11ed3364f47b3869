"""The table of the page "From a call to its kernel": for each op, the files that hold it. A file that is gone is an
error, so the table cannot be out of date."""

from __future__ import annotations

from convnextv2_fast.testing import ALL_OPS, FOLDERS

from .pages import ROOT

_CSRC = {"dwconv_layer_norm": "dwconv", "sparse_dwconv": "dwconv"}  # ops that share a folder of csrc
_CPU_TESTS = {"dwconv": "test_dwconv_native.py", "mlp_grn": "test_mlp_grn_native.py", "block": "test_packed.py"}
_BENCHMARKS = {"block": "test_block.py"}


def _code(path: str) -> str:
    """A path from the repository's root, as code.

    Raises:
        FileNotFoundError: it is gone.
    """
    if not (ROOT / path).exists():
        raise FileNotFoundError(f"tools/docs/op_map.py names {path}, which is gone")
    return f"`{path}`"


def op_map() -> str:
    """Op by op, the folder of its Python files, its kernels, the entry of its tests and its benchmark."""
    head = ("op", "Python files", "CPU kernels", "CUDA kernels", "tests", "tests on CPUs", "benchmark")
    rows = [head, tuple("---" for _ in head)]
    for op in ALL_OPS:
        csrc = _CSRC.get(op, op)
        cuda = _code("csrc/torch/block_cuda.cpp" if op == "block" else f"csrc/cuda/{csrc}/")
        rows.append(
            (
                f"`{op}`",
                _code(f"src/convnextv2_fast/ops/{FOLDERS.get(op, f'_{op}')}/"),
                _code(f"csrc/cpu/{csrc}/"),
                cuda,
                _code(f"tests/ops/test_{op}.py"),
                _code(f"tests/native/{_CPU_TESTS.get(csrc, 'test_rows_native.py')}"),
                _code(f"benchmarks/suite/{_BENCHMARKS.get(op, 'test_ops.py')}"),
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
