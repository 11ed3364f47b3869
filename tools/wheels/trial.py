"""Installs a wheel where nothing else is, and uses it there: does it load, are its results right, do its tests pass."""

from __future__ import annotations

import json
import re
import shutil
import sys
import sysconfig
from pathlib import Path

from . import audit
from .process import ROOT, Failure, run

INSIDE = Path(__file__).with_name("inside.py")
# Placed beside the copied tests, so that they cannot pass on another copy of the package.
CONFTEST = """
import sys
from pathlib import Path
import convnextv2_fast

assert Path(convnextv2_fast.__file__).is_relative_to(sys.prefix), convnextv2_fast.__file__
"""


def registered(library: str) -> list[str]:
    """The operators that `_C_<library>.so` implements, read from its sources: those that CNV2_CPU_OPERATORS adds, and
    every impl under its dispatch key."""
    keys = {"cpu": ("CPU",), "cuda": ("CUDA", "CNV2_CUDA_KEY")}[library]
    names = set()
    for source in (ROOT / "csrc" / "torch").glob("*.cpp"):
        text = source.read_text()
        for block in re.split(r"STABLE_TORCH_LIBRARY_IMPL\(\s*\w+,\s*", text)[1:]:
            if re.match(r"\w+", block)[0] in keys:  # type: ignore[index]
                names |= set(re.findall(r'\.impl\(\s*"(\w+)"', block))
        if library == "cpu":
            names |= set(re.findall(r'\.add<&\w+::\w+>\(\s*"(\w+)"', text))
    return sorted(names)


def expectations(libraries: tuple[str, ...], installed: bool) -> str:
    """The argument of inside.py."""
    operators = {name: registered(name) for name in ("cpu", "cuda")}
    return json.dumps({"libraries": libraries, "operators": operators, "installed": installed})


def libraries_of(wheel: Path) -> tuple[str, ...]:
    """Of "cpu" and "cuda", by the wheel's name."""
    parts = audit.NAME.fullmatch(wheel.name)
    if parts is None:
        raise Failure(f"{wheel.name} is no wheel of this package")
    return {"": (), "cpu": ("cpu",)}.get(parts["local"] or "", ("cpu", "cuda"))


def install(wheel: Path, python: Path) -> None:
    """Into the environment of `python`, in place of another build of the same version."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--quiet", "--force-reinstall", "--no-deps", "--no-index", wheel, cwd=wheel.parent)


def install_into_clean_venv(wheel: Path, folder: Path) -> Path:
    """A new environment that holds the wheel and sees this one's torch, but nothing installed in editable mode here."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout.strip()
    Path(site, "torch_of_the_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install(wheel, python)
    return python


def copy_tests(folder: Path) -> Path:
    """The tests and pytest's settings, away from the package's sources."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "conftest.py").write_text(CONFTEST)
    return folder


def try_wheel(wheel: Path, python: Path, folder: Path) -> str:
    """Uses the installed wheel from `folder`, which is made anew; returns what there is to tell in one line.

    Raises:
        Failure: something does not load, is not right or does not pass.
    """
    libraries = libraries_of(wheel)
    copy_tests(folder)
    # Every symbol is bound when a library is loaded, not when a kernel is first called.
    environment = {"LD_BIND_NOW": "1", "drop": ("PYTHONPATH",)}
    if not libraries:
        environment["CONVNEXTV2_FAST_QUIET"] = "1"  # it is meant to have none
    said = run(python, "-c", INSIDE.read_text(), expectations(libraries, True), cwd=folder, **environment).stdout
    for command in ("env", "check"):
        run(python, "-m", "convnextv2_fast", command, cwd=folder, **environment)
    if libraries:
        tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops", "-m", "cpu_kernel")
        passed = re.findall(r"\d+ passed", run(python, *tests, cwd=folder, **environment).stdout)
        if not passed:
            raise Failure(f"{wheel.name}: no test of the CPU kernels ran")
        said = f"{said.strip()}, {passed[-1]}"
    return said.strip()
