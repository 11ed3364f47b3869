"""Compiles, without a GPU, the kernels that a call would launch, and reads what they need of the chip."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from convnextv2_fast import library

POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


@dataclass(frozen=True)
class Job:
    """A kernel with the types, constants and options of one launch."""

    module: str
    kernel: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[int, ...]  # arguments that are multiples of 16
    options: tuple[tuple[str, Any], ...]

    @property
    def function(self) -> Any:
        """The jitted kernel."""
        return getattr(importlib.import_module(self.module), self.kernel)

    def label(self) -> str:
        """One line that names the launch: kernel, pointer types, constants, options; no module, which may move."""
        dtypes = [kind for _, kind in self.signature if kind.startswith("*")]
        main = next((d[1:] for d in dtypes), "")
        constants = [f"{k}={int(v) if isinstance(v, bool) else v}" for k, v in self.constants if v is not None]
        absent = [f"-{k.removesuffix('_ptr')}" for k, v in self.constants if v is None]
        settings, aligned = dict(self.options), ",".join(map(str, self.aligned))
        tail = f"warps={settings['num_warps']} stages={settings['num_stages']} aligned={aligned}"
        return " ".join([self.kernel, main, *constants, *absent, tail])


@dataclass(frozen=True)
class Resources:
    """Of one compiled kernel: registers and spilled bytes a thread, bytes of shared memory, matrix instructions."""

    registers: int
    spills: int
    shared: int
    matrix: str


def _no_product(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


def launches(call: Callable[[], Any]) -> list[Job]:
    """The distinct launches of a call on the backend "triton", whose tensors may lie on the CPU; none is run, nor are
    the products left to the library (most of the time)."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    from convnextv2_fast.ops._triton.launch import intercept

    found: dict[Job, None] = {}

    def hook(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], options: dict[str, Any]) -> None:
        names = kernel.arg_names
        settings = {k: options[k] for k in ("num_warps", "num_stages", "enable_fp_fusion")}
        constants = {k: v for k, v in options.items() if k not in settings}
        signature, aligned = {}, []
        for i, (name, value) in enumerate(zip(names, args, strict=False)):
            if value is None:
                constants[name] = None
            elif isinstance(value, Tensor):
                signature[name] = POINTERS[value.dtype]
                aligned.append(i)
            elif isinstance(value, TensorDescriptor):
                block = ",".join(map(str, value.block_shape))
                signature[name] = f"tensordesc<{POINTERS[value.base.dtype][1:]}[{block}]>"
            elif isinstance(value, float):
                signature[name] = "fp32"
            elif value == 1 and not kernel.params[i].do_not_specialize:  # Triton makes a constant of it
                constants[name] = 1
            else:
                signature[name] = "i32" if abs(value) < 2**31 else "i64"
                if value % 16 == 0 and not kernel.params[i].do_not_specialize:
                    aligned.append(i)
        assert set(names) == {*signature, *constants}, f"{kernel.__name__}: {set(names) ^ {*signature, *constants}}"
        order = [n for n in names if n in constants]
        parts = (tuple(signature.items()), tuple((n, constants[n]) for n in order), tuple(aligned))
        found[Job(kernel.fn.__module__, kernel.__name__, *parts, tuple(settings.items()))] = None

    with ExitStack() as stack:
        stack.enter_context(intercept(hook))
        stack.enter_context(mock.patch.object(Tensor, "__matmul__", _no_product))
        stack.enter_context(mock.patch.object(library, "TRITON_INTERPRETED", True))  # lets tensors of the CPU through
        call()
    return list(found)


def compiled(job: Job, family: str) -> Any:
    """A launch, compiled by Triton for a family of chips."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = job.function
    names = kernel.arg_names
    signature = dict(job.signature) | {name: "constexpr" for name, _ in job.constants}
    source = ASTSource(
        fn=kernel,
        signature={n: signature[n] for n in names},
        constexprs={(names.index(n),): value for n, value in job.constants},
        attrs={(i,): [["tt.divisibility", 16]] for i in job.aligned},
    )
    if family.startswith("gfx"):
        target = GPUTarget("hip", family, 64)
    else:
        target = GPUTarget("cuda", int(family.removeprefix("sm_")), 32)
    return triton.compile(source, target=target, options=dict(job.options))


def compile_one(job: Job, family: str) -> Resources:
    """What a launch takes of a family of chips."""
    import triton

    made = compiled(job, family)
    if family.startswith("gfx"):
        text = made.asm["amdgcn"]
        number = lambda key: int(re.search(rf"\.{key}:\s*(\d+)", text).group(1))  # noqa: E731
        matrix = "mfma" if "v_mfma" in text else ""
        return Resources(number("vgpr_count"), number("vgpr_spill_count"), made.metadata.shared, matrix)
    ptx = made.asm["ptx"]
    matrix = next((m for m in ("tcgen05.mma", "wgmma.mma_async", "mma.sync") if m in ptx), "")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(made.asm["cubin"])
        tool = shutil.which("cuobjdump") or str(Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump")
        said = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    registers = int(re.search(r"REG:(\d+)", said).group(1))
    local = int(re.search(r"LOCAL:(\d+)", said).group(1)) + int(re.search(r"STACK:(\d+)", said).group(1))
    return Resources(registers, local, made.metadata.shared, matrix)


def _compile(task: tuple[Job, str]) -> tuple[Job, str, Resources | str]:
    try:
        return *task, compile_one(*task)
    except Exception as error:  # the report of a failure is the message
        return *task, f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]


def compile_all(tasks: Iterable[tuple[Job, str]], workers: int = 2) -> list[tuple[Job, str, Resources | str]]:
    """Compiles launches for families, in processes; a failure is returned as its message."""
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(_compile, tasks, chunksize=2))
