"""Runs inside an environment that has the wheel: what loaded, which operators are there, are their results right.

Given to `python -c`, with one argument, JSON:
    libraries: those that the wheel holds, of "cpu" and "cuda"
    operators: {"cpu": [...], "cuda": [...]}, the names that their sources register
    installed: the package must come from this environment
"""

import importlib.metadata
import json
import sys
from pathlib import Path

import torch

import convnextv2_fast as cf
from convnextv2_fast import library
from convnextv2_fast.testing import ALL_OPS, make

want = json.loads(sys.argv[1])
here = Path(cf.__file__)
if want["installed"]:
    assert here.is_relative_to(sys.prefix), f"imported {here}, which is not of this environment"
    version = importlib.metadata.version("convnextv2_fast")
    assert version == library.build_info().get("version", cf.__version__), version

# A library that the wheel holds loads wherever this torch can take it; otherwise the right reason is told.
for name in ("cpu", "cuda"):
    reason = library.why_not(name)
    if name not in want["libraries"]:
        assert reason and f"this installation has no _C_{name}.so" in reason, reason
    elif name == "cuda" and torch.version.cuda is None:
        assert reason and "is not a CUDA build" in reason, reason
    else:
        assert reason is None, reason
loaded = [name for name in ("cpu", "cuda") if library.why_not(name) is None]
assert not torch.cuda.is_initialized(), "loading created a CUDA context"

# Every operator that the sources register has a schema and is registered, and every schema without a Python
# implementation has one in C++ once both libraries are loaded.
has = torch._C._dispatch_has_kernel_for_dispatch_key
schemas = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("convnextv2_fast::")]
native = [name for name in schemas if not has(name, "CompositeExplicitAutograd")]
assert native, "no operator is defined"
stale = "; csrc/torch has it: is the wheel older than the sources?"
for name in loaded:
    for operator in want["operators"][name]:
        assert f"convnextv2_fast::{operator}" in native, f"no schema declares {operator}{stale}"
        assert has(f"convnextv2_fast::{operator}", name.upper()), f"_C_{name}.so does not register {operator}{stale}"
if len(loaded) == 2:
    for operator in native:
        assert has(operator, "CPU") or has(operator, "CUDA"), f"nothing implements {operator}"

torch.manual_seed(0)
for op in ALL_OPS:
    problem = make(op, 2, 7, 7, 40)
    error = (problem.public(backend=None) - problem.reference()).abs().max().item()
    assert error < 1e-4, f"{op}: error {error}"
count = {name: sum(has(operator, name.upper()) for operator in native) for name in loaded}
print(f"torch {torch.__version__}, CUDA {torch.version.cuda}: operators {count}, {len(ALL_OPS)} ops right")
