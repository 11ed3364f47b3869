"""The rules that every wheel of a release keeps. Each violation is one line that names the wheel and the rule."""

from __future__ import annotations

import email
import json
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import elf
from .process import ROOT, Failure, run

PACKAGE = "convnextv2_fast"
MIB = 2**20
LARGEST = 30 * MIB
TARGET_ABI = "2.10"  # of torch; CNV2_TORCH_TARGET in cmake/torch.cmake
LIBRARIES = {"": (), "cpu": ("_C_cpu.so",), "cu": ("_C_cpu.so", "_C_cuda.so")}
NAME = re.compile(rf"{PACKAGE}-(?P<version>[^-+]+)(?:\+(?P<local>[^-]+))?-(?P<tag>[^-]+-[^-]+-[^-]+)\.whl")
NATIVE_TAG = re.compile(r"py3-none-(linux|manylinux_2_28)_(x86_64|aarch64)")
DATA = (".py", ".tsv", "py.typed")
# Everything else is inside the library or is not there on some machine: the CUDA runtime is linked statically, and the
# driver is found by it when a GPU is used.
MAY_NEED = re.compile(
    r"lib(torch_cpu|torch_cuda|c10|c10_cuda|stdc\+\+|gcc_s|m|c|dl|rt|pthread)\.so(\.\d+)?|ld-linux[-\w]*\.so\.\d"
)
PYTHON_SYMBOL = re.compile(r"_?Py[A-Z_]")
TORCH_CXX_SYMBOL = re.compile(r"_Z(NK?|TI|TIN|TV|TVN)?(2at|3c10|5torch)")
CUDA_SYMBOL = re.compile(r"cu(da)?[A-Z]")
# The newest versions that the policy of the tag allows (auditwheel has the same numbers).
MANYLINUX = {"manylinux_2_28": {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11)}}


@dataclass
class Wheel:
    """A wheel, its parts of the name, and its libraries unpacked."""

    path: Path
    archive: zipfile.ZipFile
    version: str = ""
    local: str = ""
    tag: str = ""
    libraries: dict[str, Path] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """A key of LIBRARIES."""
        return "cu" if re.fullmatch(r"cu\d+", self.local) else self.local

    @property
    def full_version(self) -> str:
        return f"{self.version}+{self.local}" if self.local else self.version

    def text(self, name: str) -> str:
        """A file's text, "" if there is none of this name."""
        return self.archive.read(name).decode() if name in self.archive.namelist() else ""

    def metadata(self, name: str) -> str:
        return self.text(f"{PACKAGE}-{self.full_version}.dist-info/{name}")


Rule = Callable[[Wheel], Iterator[str]]


def check_size(wheel: Wheel) -> Iterator[str]:
    size = wheel.path.stat().st_size
    if size > LARGEST:
        yield f"{size / MIB:.1f} MiB, more than {LARGEST // MIB} MiB"


def check_tag(wheel: Wheel) -> Iterator[str]:
    if wheel.kind not in LIBRARIES:
        yield f"local version {wheel.local!r} is none of: nothing, cpu, cu and digits"
    if wheel.local and not NATIVE_TAG.fullmatch(wheel.tag):
        yield f"{wheel.tag}, where libraries want py3-none-linux or -manylinux_2_28, x86_64 or aarch64"
    if not wheel.local and wheel.tag != "py3-none-any":
        yield f"{wheel.tag}, where no local version means py3-none-any"
    recorded = email.message_from_string(wheel.metadata("WHEEL"))
    if recorded.get_all("Tag") != [wheel.tag]:
        yield f"the file WHEEL says {recorded.get_all('Tag')}"
    if (recorded.get("Root-Is-Purelib") == "true") != (not wheel.local):
        yield f"the file WHEEL says Root-Is-Purelib: {recorded.get('Root-Is-Purelib')}"


def check_version(wheel: Wheel) -> Iterator[str]:
    said = {
        "METADATA": email.message_from_string(wheel.metadata("METADATA")).get("Version"),
        "_version.py": "".join(re.findall(r'__version__ = "(.+)"', wheel.text(f"{PACKAGE}/_version.py"))),
    }
    for name, want in (("METADATA", wheel.full_version), ("_version.py", wheel.version)):
        if said[name] != want:
            yield f"{name} says {said[name]}, the file name {want}"


def check_contents(wheel: Wheel) -> Iterator[str]:
    names = set(wheel.archive.namelist())
    info = f"{PACKAGE}-{wheel.full_version}.dist-info"
    sources = ROOT / "src"
    wanted = {
        path.relative_to(sources).as_posix() for path in (sources / PACKAGE).rglob("*") if path.name.endswith(DATA)
    }
    wanted |= {f"{info}/{name}" for name in ("METADATA", "RECORD", "licenses/LICENSE")}
    for name in sorted(wanted - names):
        yield f"{name} is missing"
    for name in sorted(names):
        if name.split("/")[0] not in (PACKAGE, info):
            yield f"{name} does not belong to the package"
        elif name.endswith((".cpp", ".cu", ".cuh", ".h", ".o", ".pyc")):
            yield f"{name} belongs to the build"
    found = {name.partition("/")[2] for name in names if name.endswith(".so")}
    expected = set(LIBRARIES.get(wheel.kind, ()))
    if found != expected:
        yield f"the libraries are {sorted(found)}, not {sorted(expected)}"
    if (f"{PACKAGE}/_build_info.json" in names) != bool(expected):
        yield f"_build_info.json is {'missing' if expected else 'there, without a library'}"


def default_archs(cuda: tuple[int, int]) -> str:
    """What cmake/arch.cmake builds for if nothing is asked."""
    numbers = ["80", "86", "89", "90"] + ["100", "120"] * (cuda >= (12, 8))
    return " ".join([f"{number}-real" for number in numbers] + [f"{numbers[-1]}-virtual"])


def check_build_info(wheel: Wheel) -> Iterator[str]:
    if not wheel.libraries:
        return
    info: dict[str, Any] = json.loads(wheel.text(f"{PACKAGE}/_build_info.json") or "{}")
    expected = {"version": wheel.full_version, "target_abi": TARGET_ABI, "build_type": "Release"}
    for key, want in expected.items():
        if info.get(key) != want:
            yield f"{key} is {info.get(key)!r}, not {want!r}"
    if "scalar" not in str(info.get("cpu_isa")).split():
        yield f"cpu_isa is {info.get('cpu_isa')!r}, without scalar"
    release = tuple(int(part) for part in re.findall(r"\d+", str(info.get("cuda")))[:2])
    if (f"cu{release[0]}{release[1]}" if len(release) == 2 else "cpu") != wheel.local:
        yield f"cuda is {info.get('cuda')!r}"
    archs = str(info.get("cuda_archs", ""))
    if wheel.kind == "cu" and len(release) == 2:
        asked = bool(os.environ.get("TORCH_CUDA_ARCH_LIST"))
        if not asked and archs != default_archs(release):  # type: ignore[arg-type]
            yield f"cuda_archs is {archs!r}, not {default_archs(release)!r}"  # type: ignore[arg-type]
        if "-real" not in archs:
            yield f"cuda_archs is {archs!r}, without binary code"


def each_library(check: Callable[[Wheel, str, elf.Library], Iterator[str]]) -> Rule:
    def rule(wheel: Wheel) -> Iterator[str]:
        for name, path in wheel.libraries.items():
            try:
                yield from (f"{name} {message}" for message in check(wheel, name, elf.read(path)))
            except Failure as failure:
                yield f"{name}: {str(failure).splitlines()[0]}"

    return rule


@each_library
def check_needed(wheel: Wheel, name: str, library: elf.Library) -> Iterator[str]:
    for needed in library.needed:
        if not MAY_NEED.fullmatch(needed):
            yield f"needs {needed}"
    must = ["libtorch_cpu.so"] + ["libtorch_cuda.so"] * (name == "_C_cuda.so")
    for needed in must:
        if needed not in library.needed:
            yield f"does not record that it needs {needed}"
    if name == "_C_cpu.so" and "libtorch_cuda.so" in library.needed:
        yield "needs libtorch_cuda.so, which a CPU build of torch lacks"
    for path in library.search_path:
        yield f"has the search path {path!r}"


@each_library
def check_symbols(wheel: Wheel, name: str, library: elf.Library) -> Iterator[str]:
    for pattern, what in (
        (PYTHON_SYMBOL, "of Python"),
        (TORCH_CXX_SYMBOL, "C++ of torch"),
        (CUDA_SYMBOL, "of CUDA, whose runtime is to be inside"),
    ):
        found = [symbol for symbol in library.undefined if pattern.match(symbol)]
        if found:
            yield f"asks for {found[0]} ({what}; {len(found)} in all)"
    if not any(symbol.startswith("aoti_torch_") for symbol in library.undefined):
        yield "asks for nothing of torch's stable ABI"
    foreign = [symbol for symbol in library.exported if not symbol.startswith("cnv2_")]
    if foreign:
        yield f"exports {', '.join(foreign[:3])} ({len(foreign)} in all), which may collide with others' names"


@each_library
def check_glibc(wheel: Wheel, name: str, library: elf.Library) -> Iterator[str]:
    limits = next((limits for tag, limits in MANYLINUX.items() if tag in wheel.tag), {})
    for symbol, version in library.undefined.items():
        family, _, number = version.partition("_")
        if family in limits and tuple(int(n) for n in re.findall(r"\d+", number)) > limits[family]:
            yield f"asks for {symbol}@{version}, newer than {wheel.tag} promises"
            return


@each_library
def check_stable_abi(wheel: Wheel, name: str, library: elf.Library) -> Iterator[str]:
    """An independent judge; it wants a package to be installed, and says so rather than pass."""
    code = "import sys; from torch_abi_audit.cli import main; sys.exit(main(sys.argv[1:]))"
    path = wheel.libraries[name]
    done = run(sys.executable, "-c", code, path, "--check", "torch", cwd=path.parent, check=False)
    if "No module named 'torch_abi_audit'" in done.stderr:
        raise Failure("not judged: python -m pip install torch-abi-audit")
    found = re.search(r"Torch ABI: +(\w+)(?:\s+Min torch: +(\d+\.\d+))?", done.stdout)
    if not found or found[1] != "STABLE" or found[2] != TARGET_ABI:
        said = f"{found[1]}, torch >= {found[2]}" if found else (done.stderr.strip().splitlines() or ["nothing"])[-1]
        yield f"is to be stable from torch {TARGET_ABI} on; torch-abi-audit says: {said}"


RULES: dict[str, Rule] = {
    "size": check_size,
    "tag": check_tag,
    "version": check_version,
    "contents": check_contents,
    "build info": check_build_info,
    "needed": check_needed,
    "symbols": check_symbols,
    "glibc": check_glibc,
    "stable abi": check_stable_abi,
}


def audit(path: Path, rules: tuple[str, ...] = tuple(RULES)) -> list[str]:
    """The violations of `rules` by this wheel, a line each: `name.whl: rule: what is wrong`."""
    parts = NAME.fullmatch(path.name)
    if parts is None:
        return [f"{path.name}: name: want {PACKAGE}-<version>[+<local>]-<python>-<abi>-<platform>.whl"]
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        wheel = Wheel(path, archive, parts["version"], parts["local"] or "", parts["tag"])
        for name in archive.namelist():
            if name.endswith(".so"):
                wheel.libraries[Path(name).name] = Path(archive.extract(name, folder))
        return [f"{path.name}: {name}: {message}" for name in rules for message in RULES[name](wheel)]
