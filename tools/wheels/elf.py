"""What a shared library needs, defines and asks for: readelf and nm, read."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from .process import Failure, run


@dataclass(frozen=True)
class Library:
    """The dynamic section and the dynamic symbols.

    Attributes:
        needed: names of the libraries that the loader opens first.
        search_path: DT_RPATH and DT_RUNPATH.
        undefined: symbol -> version that it asks for, such as GLIBC_2.34, or "".
        exported: functions that others can call.
    """

    needed: tuple[str, ...]
    search_path: tuple[str, ...]
    undefined: dict[str, str]
    exported: tuple[str, ...]


def read(path: Path) -> Library:
    """Reads `path`.

    Raises:
        Failure: binutils are not here, or this is no shared library.
    """
    missing = [name for name in ("readelf", "nm") if shutil.which(name) is None]
    if missing:
        raise Failure(f"{' and '.join(missing)} not found: symbols are read with them (apt-get install binutils)")
    dynamic = run("readelf", "-dW", path, cwd=path.parent).stdout
    undefined = run("nm", "-D", "--undefined-only", path, cwd=path.parent).stdout
    defined = run("nm", "-D", "--defined-only", path, cwd=path.parent).stdout
    asked = (line.split()[-1].partition("@") for line in undefined.splitlines())
    return Library(
        needed=tuple(re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic)),
        search_path=tuple(re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", dynamic)),
        undefined={name: version.lstrip("@") for name, _, version in asked},
        exported=tuple(line.split()[-1].split("@")[0] for line in defined.splitlines() if line.split()[-2] == "T"),
    )
