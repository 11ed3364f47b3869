"""Registers of the CUDA kernels on every architecture: the table `resources.tsv`. It has the most that any instance of
a kernel takes, a digest of what each instance takes, and a digest of the sources. It holds no spills, as none may be.

python -m tests.cuda_code.resources          compiles all, compares with the table
python -m tests.cuda_code.resources --write  writes it anew
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.compile_cache import ROOT, digest

from .compiling import Usage, architectures, nvcc_version, sources, usage, warnings

TABLE = Path(__file__).with_name("resources.tsv")
DIGEST = "digest of all instances"
Found = Mapping[tuple[str, str], Usage]


def made_from() -> str:
    """Digest of the kernels' sources and of all that they include of ours."""
    found: set[Path] = set()
    waiting = sources()
    while waiting:
        path = waiting.pop().resolve()
        if path not in found:
            found.add(path)
            names = re.findall(r'#include "(.+)"', path.read_text())
            places = (path.parent, ROOT / "csrc")
            waiting += [place / name for name in names for place in places if (place / name).exists()]
    return digest(found)


def rows(found: Found) -> dict[tuple[str, str], str]:
    """Of (kernel, architecture), the most registers of the kernel's instances; of (DIGEST, architecture), a digest of
    all instances with their registers."""
    most: dict[tuple[str, str], int] = {}
    each: dict[str, list[str]] = {}
    for (instance, arch), u in sorted(found.items()):
        key = instance.partition("<")[0], arch
        most[key] = max(u.registers, most.get(key, 0))
        each.setdefault(arch, []).append(f"{instance} {u.registers}")
    digests = {
        (DIGEST, arch): hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8] for arch, lines in each.items()
    }
    return {key: str(count) for key, count in most.items()} | digests


def read() -> tuple[str, str, dict[tuple[str, str], str]]:
    """The version of nvcc that made the table, its sources, and its rows."""
    head, columns, *lines = TABLE.read_text().splitlines()
    archs, table = columns.split("\t")[1:], {}
    for line in lines:
        kernel, *values = line.split("\t")
        table |= {(kernel, arch): value for arch, value in zip(archs, values, strict=True)}
    version, _, of_these = head.removeprefix("# registers, nvcc ").partition(", sources ")
    return version, of_these, table


def write(found: Found) -> None:
    archs, table = architectures(), rows(found)
    lines = [f"# registers, nvcc {nvcc_version()}, sources {made_from()}", "\t".join(("kernel", *archs))]
    for kernel in sorted({kernel for kernel, _ in table}):
        lines.append("\t".join((kernel, *(table[kernel, arch] for arch in archs))))
    TABLE.write_text("\n".join(lines) + "\n")


def faults(found: Found) -> list[str]:
    """Spills, arrays in memory, shared memory that no launcher has chosen."""
    bad = []
    for (kernel, arch), u in sorted(found.items()):
        if u.registers == 0:
            bad.append(f"{kernel} {arch}: no report of its registers")
        if u.spilled or u.stack:
            bad.append(f"{kernel} {arch}: {u.spilled} bytes spilled, {u.stack} bytes of stack")
        if u.static_shared:
            bad.append(f"{kernel} {arch}: {u.static_shared} bytes of static shared memory; all of it is dynamic here")
    return bad


def differences(found: Found) -> list[str]:
    """From the table, on the architectures that were compiled: in the kernels that there are and, on the version of
    nvcc that made it, in registers."""
    version, of_these, table = read()
    here, archs = rows(found), {arch for _, arch in found}
    bad = [] if of_these == made_from() else ["the sources changed since the table was written"]
    bad += [f"{kernel} {arch}: not in the table" for kernel, arch in sorted(here.keys() - table.keys())]
    gone = sorted((kernel, arch) for kernel, arch in table.keys() - here.keys() if arch in archs)
    bad += [f"{kernel} {arch}: in the table, but compiled no longer" for kernel, arch in gone]
    if version == nvcc_version():
        for key in sorted(here.keys() & table.keys()):
            if here[key] != table[key]:
                bad.append(f"{' '.join(key)}: {here[key]}, {table[key]} in the table")
    return bad


if __name__ == "__main__":
    result = usage(architectures())
    problems = faults(result) + warnings(architectures())
    if "--write" not in sys.argv:
        problems += differences(result)
    elif not problems:
        write(result)
    print(*problems, f"{len(result)} rows, {len(problems)} faults", sep="\n")
    sys.exit(bool(problems))
