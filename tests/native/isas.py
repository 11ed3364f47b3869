"""The instruction sets that the CPU library has on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from convnextv2_fast import library

BEST = library.cpu_isa() or "scalar"
ISAS = library.CPU_ISAS[: library.CPU_ISAS.index(BEST) + 1]
needs_library = pytest.mark.skipif(library.why_not("cpu") is not None, reason=str(library.why_not("cpu")))


@contextmanager
def on_isa(name: str) -> Iterator[None]:
    """Within the block the CPU kernels use this instruction set."""
    library.set_cpu_isa(name)
    try:
        yield
    finally:
        library.set_cpu_isa(BEST)
