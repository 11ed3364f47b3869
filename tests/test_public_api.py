"""The public names, and an import that costs little and touches no device."""

import os
import subprocess
import sys
import textwrap

import convnextv2_fast as cf
from convnextv2_fast import errors

NAMES = {
    "convnextv2",
    "convnextv2_nano",
    "ops",
    "ConvNeXtV2",
    "load_checkpoint",
    "utils",
    "convnextv2_pico",
    "__version__",
    "UnsupportedInputError",
    "LoadReport",
    "use_backend",
    "AccelerateReport",
    "CheckpointError",
    "accelerate",
    "restore",
    "freeze",
    "is_frozen",
    "unfreeze",
    "explain",
    "graphs",
    "convnextv2_sparse",
    "library",
    "reference",
    "convnextv2_huge",
    "convnextv2_base",
    "fcmae",
    "dispatch",
    "convnext_pico",
    "convert_state_dict",
    "build_info",
    "convnextv2_tiny",
    "models",
    "convnextv2_femto",
    "layouts",
    "convnextv2_large",
    "convnextv2_atto",
}


def test_names():
    assert set(cf.__all__) == NAMES
    assert all(hasattr(cf, n) for n in NAMES)
    assert cf.fcmae.convnextv2_tiny is not cf.convnextv2_tiny
    assert callable(cf.ops.dwconv_layer_norm)


def test_errors_have_one_class_under_every_name():
    assert cf.UnsupportedInputError is cf.dispatch.UnsupportedInputError is errors.UnsupportedInputError
    assert cf.CheckpointError is cf.checkpoints.CheckpointError is errors.CheckpointError
    assert issubclass(cf.checkpoints.MisfitError, errors.CheckpointError)


def test_upstream_modules_have_upstream_names():
    for module, names in {
        cf.convnextv2: "Block ConvNeXtV2 convnext_pico convnextv2_pico convnextv2_atto convnextv2_huge",
        cf.convnextv2_sparse: "Block SparseConvNeXtV2",
        cf.fcmae: "FCMAE convnextv2_pico convnextv2_atto convnextv2_huge",
        cf.utils: "LayerNorm GRN MinkowskiGRN MinkowskiLayerNorm MinkowskiDropPath",
    }.items():
        assert all(hasattr(module, n) for n in names.split()), module


def run(code: str, **env: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_lean_import():
    """Under 0.3 s on top of torch (best of three: machines hiccup), no CUDA context, nothing optional imported.

    CPU time, with bytecode in place after the first of the three, as pip leaves it: neither waiting beside other tests
    nor compiling this folder's sources is part of the import.
    """
    code = """
        import sys, time, torch
        before = set(sys.modules)
        start = time.process_time()
        import convnextv2_fast
        elapsed = time.process_time() - start
        new = {m.split(".")[0] for m in set(sys.modules) - before}
        assert not torch.cuda.is_initialized()
        heavy = new & {"triton", "timm", "transformers", "rich", "matplotlib", "torchvision", "safetensors"}
        assert not heavy, heavy
        assert "convnextv2_fast.bench" not in sys.modules
        print(elapsed)
    """
    # an empty value is an unset one
    assert min(float(run(code, PYTHONDONTWRITEBYTECODE="")) for _ in range(3)) < 0.3


def test_the_suite_runs_on_poisoned_memory():
    import torch

    assert torch.empty(3).isnan().all() and torch.empty_like(torch.ones(2)).isnan().all()
