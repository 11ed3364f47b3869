"""The CUDA kernel of dwconv_layer_norm, executed on the CPU thread by thread."""

import re

from tests.native.cxx import needs_compiler, run_check


@needs_compiler
def test_kernel_body(tmp_path):
    """Barriers and shuffles reached by all, memory within bounds, results close to double precision."""
    said = run_check("dwconv_layer_norm_cuda_check.cpp", tmp_path)
    assert re.search(r"^30 problems, 0 failed", said), said
