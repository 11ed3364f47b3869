"""The parts that the figures come in, and why one cannot be measured here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.reports.machine import cpu_model
from tests.cuda_code.compiling import FILTER, NVCC, disassembler, nvcc_version
from tests.native.cxx import COMPILER

from . import host, launches, sass
from .figures import Figure


@dataclass(frozen=True)
class Part:
    measure: Callable[[], list[Figure]]
    why_not: Callable[[], str | None]  # one reason; None: it can
    made_with: Callable[[], dict[str, str]] = dict  # tools whose other versions give other figures
    made_on: Callable[[], dict[str, str]] = dict  # what the table shall say beside


def _no_code() -> str | None:
    if NVCC is None or FILTER is None:
        return "no nvcc or no c++filt on PATH"
    return "no cuobjdump" if disassembler() is None else None


def _no_compiler() -> str | None:
    return "no C++ compiler on PATH" if COMPILER is None else None


def _no_fake_device() -> str | None:
    real = torch.version.cuda is not None or torch.version.hip is not None
    return "this torch has a real device in place of the fake one" if real else _no_compiler()


PARTS = {
    "code": Part(sass.measure, _no_code, lambda: {"nvcc": nvcc_version()}),
    "host": Part(host.measure, _no_compiler, made_on=lambda: {"CPU": cpu_model()}),
    "launches": Part(launches.measure, _no_fake_device, lambda: {"torch": torch.__version__.partition("+")[0]}),
}
