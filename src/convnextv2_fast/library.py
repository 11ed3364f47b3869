"""Loads the native libraries that lie beside this file, and says why when there is none to load.

``_C_cpu.so`` and ``_C_cuda.so`` are built by setup.py. They contain no Python code: they attach C++ implementations to
operators whose schemas and shape functions are declared here, from Python, by :func:`define`. So every operator has a
schema, traces and compiles without any library; only running it needs one.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ._version import __version__

NAMESPACE = "convnextv2_fast"
ISA_ENVIRONMENT = "CONVNEXTV2_FAST_CPU_ISA"
CPU_ISAS = ("scalar", "avx2", "avx512", "avx512_bf16", "amx")  # each implies those before it
OLDEST_TRITON = (3, 6)
TRITON_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
QUIET_ENVIRONMENT = "CONVNEXTV2_FAST_QUIET"
REBUILD = "install it again from its source folder: python -m pip install --force-reinstall --no-deps ."

_FOLDER = Path(__file__).resolve().parent
_definitions = torch.library.Library(NAMESPACE, "DEF")


def define(schema: str, fake: Callable[..., Any], implementation: Callable[..., Any] | None = None) -> Any:
    """Declares the private operator ``torch.ops.convnextv2_fast.<name>`` and returns it.

    Args:
        schema: ``"name(Tensor x, ...) -> Tensor"``.
        fake: the same signature on tensors without data: returns outputs of the right shapes, dtypes and strides.
        implementation: a Python implementation for every device. None: C++ attaches one.
    """
    name = schema[: schema.index("(")]
    _definitions.define(schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides))
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_definitions)
    if implementation is not None:
        _definitions.impl(name, implementation, "CompositeExplicitAutograd")
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def refine(operator: Any, key: str, implementation: Callable[..., Any], *, with_keyset: bool = False) -> None:
    """Has an operator of :func:`define` do something more at a dispatch key, such as ``"Autograd"``.

    Args:
        implementation: the operator's signature. It calls the operator below that key, or raises an error.
        with_keyset: whether its first argument is the keys of the call, for ``operator.redispatch``.
    """
    _definitions.impl(operator._schema.name, implementation, key, with_keyset=with_keyset)


def _read_build_info(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "_build_info.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _torch_version() -> tuple[int, int]:
    major, minor = re.match(r"(\d+)\.(\d+)", torch.__version__).groups()  # type: ignore[union-attr]
    return int(major), int(minor)


def _load(name: str, folder: Path, info: dict[str, Any]) -> str | None:
    """Loads ``_C_<name>.so``; returns None, or one sentence: what is missing and what would help."""
    path = folder / f"_C_{name}.so"
    if not path.is_file():
        if platform.system() != "Linux":
            return f"this installation has no {path.name}; native kernels are built for Linux alone"
        absent = f"this installation has no {path.name}"
        if name == "cuda" and torch.version.cuda is None:
            return f"{absent}: torch {torch.__version__} is a CPU build, beside which no CUDA code is compiled"
        needs = "nvcc and a C++ compiler" if name == "cuda" else "a C++ compiler (g++)"
        return f"{absent}; with {needs} on the machine, {REBUILD}"
    if name == "cuda" and torch.version.cuda is None:
        return f"torch {torch.__version__} is not a CUDA build; install a CUDA build of torch to use {path.name}"
    built_for = info.get("version", "an unknown version")
    if built_for.split("+")[0] != __version__:
        return f"{path.name} was built for convnextv2_fast {built_for}, this is {__version__}; {REBUILD}"
    target = str(info.get("target_abi", "2.10"))
    if _torch_version() < tuple(int(part) for part in target.split(".")):
        return f"{path.name} needs torch >= {target}, this is {torch.__version__}; install a newer torch"
    try:
        torch.ops.load_library(str(path))
    except Exception as error:  # whatever is wrong with a binary must not break the import of the package
        return f"{path.name} does not load on torch {torch.__version__} ({str(error).splitlines()[0]}); {REBUILD}"
    return None


def why_not(name: str) -> str | None:
    """Why the native library ``"cpu"`` or ``"cuda"`` is not there; None if it is loaded.

    Raises:
        ValueError: for another name.
    """
    if name not in _missing:
        raise ValueError(f"unknown native library {name!r}: 'cpu' or 'cuda'")
    return _missing[name]


def _triton_why_not() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; with an NVIDIA or AMD GPU: pip install triton"
    for package in ("triton", "pytorch-triton", "pytorch-triton-rocm"):
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST_TRITON:
            return f"Triton {version} is too old; install {'.'.join(map(str, OLDEST_TRITON))} or newer"
        break
    return None


def triton_why_not() -> str | None:
    """Why no Triton kernel can run in this installation, in one sentence; None if one can. Does not import Triton."""
    return _missing_triton


def expected() -> str:
    """The native library that should be loaded here: "cuda" with an NVIDIA GPU and a CUDA build of torch, else "cpu".

    Looks for the driver's device files: asking CUDA would initialise it, after which a process cannot fork."""
    gpu = any(os.path.exists(path) for path in ("/dev/nvidiactl", "/dev/dxg"))
    return "cuda" if gpu and torch.version.cuda is not None else "cpu"


def missing_kernels() -> str | None:
    """What this installation lacks for the device at hand, and what runs in its place, in a sentence; None if nothing.

    None too where CONVNEXTV2_FAST_QUIET=1 says that this is intended."""
    name = expected()
    if _missing[name] is None or os.environ.get(QUIET_ENVIRONMENT) == "1":
        return None
    instead = "Triton kernels run" if name == "cuda" and _missing_triton is None else "plain PyTorch runs"
    return f"no native {name.upper()} kernels: {instead} in their place ({_missing[name]})"


def build_info() -> dict[str, Any]:
    """How the native libraries were built: version, torch, target ABI, compiler, instruction sets, CUDA architectures.

    Empty for a pure Python installation."""
    return dict(_build_info)


def parse_archs(archs: str) -> tuple[tuple[int, int, str], ...]:
    """CMake's list, such as ``"80-real 90-real 90-virtual"``, as `(major, minor, "real" | "virtual" | "")`."""
    parts = (arch.partition("-") for arch in archs.split())
    return tuple((*divmod(int(re.sub(r"\D", "", number)), 10), kind) for number, _, kind in parts)


_capabilities: dict[int | None, tuple[int, int]] = {}


def capability(device: int | None = None) -> tuple[int, int]:
    """The compute capability of a GPU, such as (9, 0).

    The driver is asked once for each GPU; under torch.compile, which folds its properties, in each trace.
    get_device_capability would be an operation of the graph.

    Args:
        device: its index; None: the current one.
    """
    if torch.compiler.is_compiling():
        properties = torch.cuda.get_device_properties() if device is None else torch.cuda.get_device_properties(device)
        return properties.major, properties.minor
    if device is None:
        device = torch.cuda.current_device()
    if device not in _capabilities:
        properties = torch.cuda.get_device_properties(device)
        _capabilities[device] = (properties.major, properties.minor)
    return _capabilities[device]


def cuda_code_for(capability: tuple[int, int], archs: tuple[tuple[int, int, str], ...] | None = None) -> bool:
    """Whether ``_C_cuda.so`` holds code for a GPU of this compute capability: its own, or PTX of an older one.

    Plain comparisons, so that torch.compile can trace it.

    Args:
        capability: such as (9, 0).
        archs: of :func:`parse_archs`; None: of this build.
    """
    for major, minor, kind in _cuda_archs if archs is None else archs:
        if kind != "virtual" and major == capability[0] and minor <= capability[1]:
            return True
        if kind != "real" and (major, minor) <= capability:
            return True
    return False


def cpu_isa() -> str | None:
    """The instruction set that the CPU kernels use, of :data:`CPU_ISAS`; None without them."""
    return None if _cpu is None else _cpu.cnv2_cpu_isa().decode()


def set_cpu_isa(isa: str) -> None:
    """Makes the CPU kernels use ``isa`` from the next call on, in the whole process. For tests and comparisons.

    Raises:
        ValueError: this machine or this build does not have it; nothing is changed.
    """
    if _cpu is None:
        raise ValueError(f"no instruction set to choose: {_missing['cpu']}")
    if not _cpu.cnv2_set_cpu_isa(isa.encode()):
        raise ValueError(
            f"instruction set {isa!r} is not available: the best here is {_cpu.cnv2_best_cpu_isa().decode()!r}, "
            f"of {', '.join(map(repr, CPU_ISAS))}"
        )


def usable_cpus() -> int | None:
    """How many threads a CPU kernel takes at most; None without CPU kernels.

    The CPUs of the process's affinity mask (where OpenMP has bound its first thread, those of OpenMP's places), or what
    its cgroup's quota comes to, rounded up, if that is less."""
    return None if _cpu is None else int(_cpu.cnv2_usable_cpus())


def assume_cpus(number: int) -> None:
    """Makes :func:`usable_cpus` ``number`` from now on, whatever the machine has; 0: what it has. For tests."""
    if _cpu is not None:
        _cpu.cnv2_assume_cpus(number)


def _open_cpu(folder: Path) -> ctypes.CDLL:
    handle = ctypes.CDLL(str(folder / "_C_cpu.so"))  # loaded already: this only gives access to its C functions
    handle.cnv2_cpu_isa.restype = handle.cnv2_best_cpu_isa.restype = ctypes.c_char_p
    handle.cnv2_set_cpu_isa.argtypes = (ctypes.c_char_p,)
    return handle


_build_info = _read_build_info(_FOLDER)
_cuda_archs = parse_archs(str(_build_info.get("cuda_archs", "")))
_missing: dict[str, str | None] = {name: _load(name, _FOLDER, _build_info) for name in ("cpu", "cuda")}
_missing_triton = _triton_why_not()
_cpu = None if _missing["cpu"] else _open_cpu(_FOLDER)

if _cpu is not None and os.environ.get(ISA_ENVIRONMENT):
    try:
        set_cpu_isa(os.environ[ISA_ENVIRONMENT])
    except ValueError as error:
        warnings.warn(f"{ISA_ENVIRONMENT}: {error}; using {cpu_isa()!r}", RuntimeWarning, stacklevel=2)

if (_told := missing_kernels()) is not None:
    # 4: the line that imports the package; between lie its own `__init__` and `dispatch`
    warnings.warn(f"convnextv2_fast has {_told}. {QUIET_ENVIRONMENT}=1 silences this.", UserWarning, stacklevel=4)
