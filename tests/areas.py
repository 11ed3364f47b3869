"""The areas of the test suite: which tests, what they prove, of which sources; and a digest of it all.

`python -m tests.run_areas` runs them. An area's digest is made of its tests, of what they import, and of the sources
that it judges; a committed digest says: passed as it is.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests import compile_cache, imports

ROOT = compile_cache.ROOT
PACKAGE = "src/convnextv2_fast"
# What nearly every test computes with; `testing` makes the problems of the kernels' tests.
COMPUTING = (
    f"{PACKAGE}/ops",
    f"{PACKAGE}/models",
    f"{PACKAGE}/dispatch.py",
    f"{PACKAGE}/block_plans.py",
    f"{PACKAGE}/pair_plans.py",
    f"{PACKAGE}/unchanged.py",
    f"{PACKAGE}/changes.py",
    f"{PACKAGE}/constants.py",
    f"{PACKAGE}/fused_modules.py",
    f"{PACKAGE}/fusion.py",
    f"{PACKAGE}/graph.py",
    f"{PACKAGE}/errors.py",
    f"{PACKAGE}/layouts.py",
    f"{PACKAGE}/library.py",
    f"{PACKAGE}/plain.py",
    f"{PACKAGE}/preferences.py",
    f"{PACKAGE}/preferences.tsv",
    f"{PACKAGE}/spec.py",
    f"{PACKAGE}/testing.py",
)
# Not pyproject.toml, which changes for the linters and the metadata; packaging judges it.
ALWAYS = ("tests/conftest.py", "requirements/torch.txt", "requirements/test.txt")


@dataclass(frozen=True)
class Area:
    """Tests that stand or fall with the same sources: `sources`, beside the tests and the helpers that they import."""

    name: str
    proves: str
    tests: tuple[str, ...]
    sources: tuple[str, ...]


AREAS = (
    Area(
        "ops",
        "every op and layout against float64: shapes, dtypes, gradients, errors; dispatch; the public API",
        (
            "tests/ops",
            "tests/test_cuda.py",
            "tests/test_dispatch.py",
            "tests/test_layouts.py",
            "tests/test_preferences.py",
            "tests/test_public_api.py",
            "tests/test_areas.py",
        ),
        (
            *COMPUTING,
            f"{PACKAGE}/__init__.py",
            "csrc/cpu",
            "csrc/common",
            "csrc/torch",
        ),
    ),
    Area(
        "native",
        "the CPU kernels for every instruction set, emulated and under sanitizers",
        ("tests/native",),
        (*COMPUTING, "csrc/cpu", "csrc/common", "csrc/torch", "cmake"),
    ),
    Area(
        "emulation",
        "the CUDA kernels, emulated on the CPU, in any order of threads, under sanitizers",
        ("tests/cuda_emulation",),
        (*COMPUTING, f"{PACKAGE}/bench", "csrc/cuda", "csrc/common", "csrc/torch"),
    ),
    Area(
        "machine-code",
        "what the compilers make of the CUDA kernels: registers, instructions, bytes, launches",
        ("tests/cuda_code", "tests/static_figures"),
        (*COMPUTING, "csrc/cuda", "csrc/common", "csrc/torch", "cmake"),
    ),
    Area(
        "triton",
        "the Triton kernels, interpreted on the CPU, and compiled for six families of GPUs",
        ("tests/triton",),
        COMPUTING,
    ),
    Area(
        "fake-device",
        "whole steps never read from the device",
        ("tests/fake_device",),
        (*COMPUTING, f"{PACKAGE}/graphs", "csrc/torch"),
    ),
    Area(
        "graphs",
        "inference and training steps as CUDA graphs, on a tape: bit for bit the eager ones",
        ("tests/graphs",),
        (*COMPUTING, f"{PACKAGE}/graphs"),
    ),
    Area(
        "models",
        "the models against timm, transformers, and vectors of the original",
        ("tests/models", "tests/golden"),
        (*COMPUTING, f"{PACKAGE}/checkpoints", f"{PACKAGE}/reference.py"),
    ),
    Area(
        "adapters",
        "`accelerate`, alone and with compile, export, ONNX, DDP and FSDP; serving",
        ("tests/adapters", "tests/ecosystem", "tests/examples", "tests/test_fusion.py"),
        (
            *COMPUTING,
            f"{PACKAGE}/adapters",
            f"{PACKAGE}/frozen",
            f"{PACKAGE}/bench",
            f"{PACKAGE}/cli",
            f"{PACKAGE}/reference.py",
            "examples",
        ),
    ),
    Area(
        "frozen",
        "frozen models of every family: results, refusals, copies, threads, graphs",
        ("tests/frozen",),
        (
            *COMPUTING,
            f"{PACKAGE}/adapters",
            f"{PACKAGE}/frozen",
            f"{PACKAGE}/graphs",
            f"{PACKAGE}/checkpoints/load.py",
            f"{PACKAGE}/reference.py",
            "csrc/cpu",
            "csrc/common",
            "csrc/torch",
        ),
    ),
    Area(
        "checkpoints",
        "every format of checkpoint, in and out",
        ("tests/checkpoints",),
        (f"{PACKAGE}/checkpoints", f"{PACKAGE}/cli", f"{PACKAGE}/errors.py", f"{PACKAGE}/models"),
    ),
    Area(
        "command-line",
        "`env`, `check`, `bench`, `explain`",
        ("tests/cli",),
        (f"{PACKAGE}/bench", f"{PACKAGE}/cli", *COMPUTING),
    ),
    Area(
        "train",
        "pre-training and fine-tuning: numbers, resume, kills, several processes",
        ("tests/train",),
        (
            f"{PACKAGE}/train",
            f"{PACKAGE}/graphs",
            f"{PACKAGE}/cli",
            f"{PACKAGE}/errors.py",
            f"{PACKAGE}/models",
            f"{PACKAGE}/checkpoints",
        ),
    ),
    Area(
        "reliability",
        "nothing grows over thousands of calls; forks; hostile files; random calls",
        ("tests/reliability",),
        (*COMPUTING, f"{PACKAGE}/checkpoints", f"{PACKAGE}/cli", f"{PACKAGE}/train", "csrc/cpu/threads", "csrc/torch"),
    ),
    Area(
        "packaging",
        "installations, wheels and what is in them",
        ("tests/packaging",),
        (
            "tools",
            "cmake",
            "CMakeLists.txt",
            "setup.py",
            "pyproject.toml",
            "MANIFEST.in",
            "Makefile",
            f"{PACKAGE}/library.py",
            f"{PACKAGE}/_version.py",
        ),
    ),
    Area(
        "docs",
        "the pages' links, commands and Python blocks",
        ("tests/docs",),
        (
            *COMPUTING,
            "docs",
            "README.md",
            "CONTRIBUTING.md",
            "mkdocs.yml",
            "tools/docs",
            f"{PACKAGE}/bench",
            f"{PACKAGE}/cli",
            f"{PACKAGE}/checkpoints",
            f"{PACKAGE}/environment.py",
            f"{PACKAGE}/frozen",
            f"{PACKAGE}/graphs",
            f"{PACKAGE}/reference.py",
            "examples",
            "benchmarks/results",
        ),
    ),
    Area(
        "benchmarks",
        "the programs that measure, their tables, and the account of a GPU",
        ("tests/benchmarks",),
        (*COMPUTING, "benchmarks", f"{PACKAGE}/bench", f"{PACKAGE}/cli", f"{PACKAGE}/reference.py"),
    ),
)
BY_NAME = {area.name: area for area in AREAS}


def files(places: Iterable[str]) -> list[Path]:
    """The tracked files in these folders, and these files; results of builds do not count."""
    listed = subprocess.run(["git", "ls-files", "-z", *places], cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file())


def digest(area: Area) -> str:
    """Of everything that the area's result depends on in this tree."""
    return compile_cache.digest(judged(area))


def judged(area: Area) -> set[Path]:
    """The files that the area's result depends on."""
    return {*files((*area.tests, *area.sources, *ALWAYS)), *imports.followed(files((*area.tests, *ALWAYS)))}
