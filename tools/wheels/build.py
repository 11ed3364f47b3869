"""From the source tree to an sdist, and from the sdist to wheels, without touching what is installed in place."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tarfile
from pathlib import Path

from . import toolkit
from .process import ROOT, Failure, run

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
# What the caller's environment must not decide for a release: which libraries, of which version.
DECIDED_HERE = (
    "CONVNEXTV2_FAST_CPU",
    "CONVNEXTV2_FAST_CUDA",
    "CONVNEXTV2_FAST_LOCAL_VERSION",
    "CUDA_HOME",
    "CUDA_PATH",
    "CUDACXX",
    "DEBUG",
)


def channel_of(target: str) -> str:
    """The local version that a wheel gets, which also names its page of the index: "" (pure), "cpu", "cu130"."""
    return {"any": "", "cpu": "cpu"}.get(target, f"cu{target.replace('.', '')}")


def copy_sources(target: Path) -> Path:
    """The source tree without anything built."""
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
    return target


def build_sdist(source: Path, out: Path) -> Path:
    """Through the standard build backend, as any front end calls it."""
    out.mkdir(parents=True, exist_ok=True)
    code = "import sys; from setuptools import build_meta; print('\\n' + build_meta.build_sdist(sys.argv[1]))"
    done = run(sys.executable, "-c", code, out, cwd=source, drop=DECIDED_HERE)
    return out / done.stdout.split()[-1]


def unpack(sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(folder)
    (source,) = folder.iterdir()
    return source


def first_error(text: str) -> str:
    """The compiler's or CMake's first message: it comes long before pip's and setuptools' last words."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["nothing was printed"]
    for i, line in enumerate(lines):
        if line.startswith("CMake Error"):
            return " ".join(lines[i : i + 2])
        if re.search(r"\S: (fatal )?error: |^error: (?!subprocess)|, but the build needs: ", line):
            return line
    return lines[-1]


def build_wheel(
    source: Path, out: Path, platform: str = "", drop: tuple[str, ...] = (), **environment: str
) -> tuple[Path, str]:
    """The wheel, and what the build printed.

    Args:
        platform: the platform tag, such as manylinux_2_28_x86_64; "": that of this machine.
        drop, environment: variables to unset and to set.
    """
    tag = ("--config-settings", f"--build-option=--plat-name={platform}") if platform else ()
    out.mkdir(parents=True, exist_ok=True)
    before = set(out.glob("*.whl"))
    done = run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel"),
        *("--no-build-isolation", "--no-deps", "-v", *tag, "-w", out, "."),
        cwd=source,
        check=False,
        drop=drop,
        **environment,
    )
    if done.returncode != 0:
        log = out / "build.log"
        log.write_text(done.stdout + done.stderr)
        raise Failure(f"{first_error(done.stderr)}: the build failed, see {log}")
    (wheel,) = set(out.glob("*.whl")) - before
    return wheel, done.stdout + done.stderr


def settings(target: str, work: Path) -> tuple[dict[str, str], str]:
    """The environment that makes setup.py build `target`, and what to say of the compiler."""
    if target == "any":
        return {"CONVNEXTV2_FAST_CPU": "0", "CONVNEXTV2_FAST_CUDA": "0"}, ""
    chosen = {"CONVNEXTV2_FAST_CPU": "1", "CONVNEXTV2_FAST_CUDA": "0"}
    said = ""
    if target != "cpu":
        home, origin = toolkit.provide(target, work / "cuda")
        chosen |= {"CONVNEXTV2_FAST_CUDA": "1", "CUDA_HOME": str(home)}
        if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
            chosen["TORCH_CUDA_ARCH_LIST"] = "all"  # not only the GPUs of the machine that builds
        said = f"nvcc {target}, {origin}"
    return chosen | {"CONVNEXTV2_FAST_LOCAL_VERSION": channel_of(target)}, said


def build_target(target: str, sdist: Path, out: Path, work: Path, platform: str = "") -> tuple[Path, str]:
    """One wheel from the unpacked sdist into `out`, in place of an older one of its name, and a remark.

    Args:
        target: "any", "cpu" or a CUDA release such as "13.0".
        work: where sources, objects and toolkits lie.
    """
    environment, said = settings(target, work)
    folder = work / "wheels" / (channel_of(target) or "any")
    shutil.rmtree(folder, ignore_errors=True)
    source = unpack(sdist, folder / "source")
    tag = "" if target == "any" else platform
    built, _ = build_wheel(source, folder / "out", tag, DECIDED_HERE, **environment)
    out.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(built, out / built.name)), said


def new_sdist(out: Path, work: Path) -> Path:
    """An sdist of the source tree as it is now, from a copy: building in place would write there."""
    folder = work / "wheels" / "sdist"
    shutil.rmtree(folder, ignore_errors=True)
    sdist = build_sdist(copy_sources(folder / "source"), folder / "out")
    out.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(sdist, out / sdist.name))
