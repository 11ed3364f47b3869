"""Copies of the source tree, wheels built from them, and clean environments to install those into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = (
    ".git",
    ".venv",
    "build",
    "dist",
    "*.so",
    "_build_info.json",
    "*.egg-info",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
)


def run(*command: str | Path, cwd: Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command with additional environment variables; on failure the test shows what it printed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done


def copy_sources(target: Path) -> Path:
    """The source tree without anything built."""
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
    return target


def build_sdist(source: Path, out: Path) -> Path:
    """Through the standard build backend, as any front end calls it."""
    out.mkdir(parents=True, exist_ok=True)
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", code, out, cwd=source)
    (archive,) = out.glob("*.tar.gz")
    return archive


def build_wheel(source: Path, out: Path, **environment: str) -> tuple[Path, str]:
    """The wheel, and what the build printed."""
    done = run(
        *(sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-v", "-w", out, "."),
        cwd=source,
        **environment,
    )
    (wheel,) = out.glob("*.whl")
    return wheel, done.stdout + done.stderr


def install_into_clean_venv(wheel: Path, folder: Path) -> Path:
    """A new environment that holds the wheel and sees this one's torch, but nothing installed in editable mode here."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout.strip()
    Path(site, "torch_of_the_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder.parent)
    return python
