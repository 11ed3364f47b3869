"""Which files of the repository a Python file imports, and those in turn, without running any."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# convnextv2_fast is listed by hand, as an area's sources: its __init__.py imports nearly everything.
PACKAGES = ("tests", "benchmarks", "tools", "examples")
SOURCES = ROOT / "src"


def _names(path: Path) -> Iterator[str]:
    """Every module that an import statement may mean."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _files(name: str) -> Iterator[Path]:
    """The module's file, and the `__init__.py` of every package above it."""
    parts = name.split(".")
    if parts[0] in PACKAGES:
        yield ROOT.joinpath(*parts).with_suffix(".py")
        yield from (ROOT.joinpath(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1))


def of_the_library(path: Path) -> set[Path]:
    """The modules of convnextv2_fast that a file names in an import: files, and folders for those that are packages."""
    found: set[Path] = set()
    for name in _names(path):
        parts = name.split(".")
        if parts[0] == "convnextv2_fast":
            # The last part may be something within a module.
            places = (SOURCES.joinpath(*parts[:n]) for n in range(len(parts), 1, -1))
            modules = (p if p.is_dir() else p.with_suffix(".py") for p in places)
            found.update(module for module in modules if module.exists())
    return found


def followed(paths: Iterable[Path]) -> set[Path]:
    """These files, and all that they import, directly or not."""
    found: set[Path] = set()
    left = [path for path in paths if path.suffix == ".py"]
    while left:
        path = left.pop()
        if path not in found and path.is_file():
            found.add(path)
            left += [file for name in _names(path) for file in _files(name)]
    return found
