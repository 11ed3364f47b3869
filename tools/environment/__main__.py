"""See tools/environment/__init__.py."""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from ..native import finding
from .phases import Phase

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
GROUPS = ("build", "torch", "bench", "peers", "test", "style", "docs")
ABOUT = {"build": 5, "torch": 70, "bench": 15, "peers": 5, "test": 45, "style": 5, "docs": 10}  # seconds
OPERATORS = Path(__file__).with_name("torchvision_operators.py")
NATIVE = ("csrc", "cmake", "CMakeLists.txt", "setup.py", "pyproject.toml", "tools/native")
VARIABLES = ("CXX", "CUDA_HOME", "DEBUG", "TORCH_CUDA_ARCH_LIST", "CONVNEXTV2_FAST_CPU", "CONVNEXTV2_FAST_CUDA")
SITE = "lib/python*/site-packages"
UNFINISHED = "unfinished"  # the record of an environment that is being made


class Failed(Exception):
    """A message for the user."""


def digest(words: Iterable[str], files: Iterable[Path] = ()) -> str:
    """One for these words, and these files with their names."""
    known = hashlib.sha256("\0".join(words).encode())
    for path in sorted(files):
        known.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return known.hexdigest()


class Environment:
    """A virtual environment and what is recorded of it: a file for each thing that was installed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.python = folder, folder / "bin" / "python"

    def run(self, *words: object) -> int:
        """The exit code of a command with the environment's interpreter."""
        return subprocess.run([str(self.python), *map(str, words)], cwd=ROOT, check=False).returncode

    def pip(self, *words: object) -> int:
        """The exit code of pip install. --no-compile: Python compiles what is imported, which is a part of it."""
        return self.run("-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile", *words)

    def is_recorded(self, name: str, value: str) -> bool:
        """Whether this was installed, from the same files."""
        record = self.folder / f".{name}"
        return record.is_file() and record.read_text() == value

    def record(self, name: str, value: str) -> None:
        """Remembers that this was installed."""
        (self.folder / f".{name}").write_text(value)

    def forget(self, name: str) -> None:
        """It is about to change."""
        (self.folder / f".{name}").unlink(missing_ok=True)

    def create(self) -> None:
        """Makes the environment if it is not there, and makes good one whose making was cut short."""
        was_there = self.folder.exists()
        was_empty = self._refuse_what_is_no_environment()
        if not was_empty and self._is_whole():
            return
        # venv runs other processes, which an interruption may leave writing: nothing is tidied up then. The mark stays
        # until all is there, and whoever finds it begins again.
        self._claim()
        with Phase(f"creating {self.folder.name} with Python {sys.version.split()[0]}"):
            # This interpreter may be the half-made environment's own: the one that its link leads to makes it.
            maker = os.path.realpath(sys.executable) if self._is_mine(Path(sys.executable)) else sys.executable
            if subprocess.run([maker, "-m", "venv", str(self.folder)], check=False).returncode != 0:
                if was_empty:
                    self._empty(and_remove=not was_there)
                raise Failed(
                    f"{maker} cannot make an environment. Install its venv module "
                    "(Debian: apt-get install python3-venv)"
                )
        self.forget(UNFINISHED)

    def _refuse_what_is_no_environment(self) -> bool:
        """Whether the folder is empty or not there. One with something else than an environment is somebody's."""
        if not self.folder.exists() and not self.folder.is_symlink():
            return True
        if not self.folder.is_dir():
            raise Failed(f"{self.folder} is no folder: name another one for the environment (make VENV=...)")
        if not any(self.folder.iterdir()):
            return True
        if not any((self.folder / name).exists() for name in ("pyvenv.cfg", "conda-meta", f".{UNFINISHED}")):
            raise Failed(
                f"{self.folder} holds something else than a virtual environment; nothing was touched. Name a folder "
                "that is empty or not there yet (make VENV=...)"
            )
        return False

    def _is_whole(self) -> bool:
        """Whether everything is there: pip, which venv installs last, too."""
        if (self.folder / f".{UNFINISHED}").exists() or not self.python.exists():
            return False
        if any(self.folder.glob(f"{SITE}/pip-*.dist-info/RECORD")):  # pip writes this file last
            return True
        asked = subprocess.run([str(self.python), "-m", "pip", "--version"], capture_output=True, check=False)
        return asked.returncode == 0

    def _is_mine(self, path: Path) -> bool:
        """Whether a file lies in the environment."""
        return path.absolute().is_relative_to(self.folder)

    def _claim(self) -> None:
        """Marks the environment as unfinished, and removes what would keep venv from making it good."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.record(UNFINISHED, "")
        except OSError as error:
            raise Failed(f"cannot write into {self.folder}: {error.strerror}") from error
        # Half of pip passes for installed, and a link to a Python that is gone is not replaced.
        halves = [path for name in ("pip", "pip-*.dist-info") for path in self.folder.glob(f"{SITE}/{name}")]
        for path in halves:
            shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.glob("bin/python*"):
            if path.is_symlink() and not path.exists():
                path.unlink()

    def _empty(self, and_remove: bool) -> None:
        """Removes what is in the folder: only for what this program has just put there."""
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        if and_remove and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def install(self, group: str) -> None:
        """The packages of a file in requirements/, unless they are there."""
        file = REQUIREMENTS / f"{group}.txt"
        known = digest((), (file,))
        if self.is_recorded(group, known):
            return
        names = [line.split("==")[0] for line in file.read_text().splitlines() if "==" in line]
        listed = ", ".join(dict.fromkeys(names[:4])) + (", ..." if len(names) > 4 else "")
        ahead = self._compile_ahead() if group == "torch" else None
        extra = "; the CPU kernels compile meanwhile" if ahead else ""
        try:
            with Phase(f"installing for {group}: {listed}{extra}", ABOUT[group]):
                options = ("--no-deps",) if group == "peers" else ()
                if self.pip(*options, "-r", file) != 0:
                    raise Failed(
                        f"pip could not install {file.relative_to(ROOT)}: see its message above. "
                        "Is the network or the package index reachable?"
                    )
                if ahead is not None:
                    ahead.wait()  # its own messages tell of a failure, which the build will meet again
        except BaseException:
            if ahead is not None:
                ahead.terminate()
            raise
        if group == "peers":
            self._make_torchvision_importable()
        self.record(group, known)

    def _compile_ahead(self) -> subprocess.Popen[bytes] | None:
        """Starts compiling what needs no torch: downloading torch takes longer, and one core less."""
        native = platform.system() == "Linux" and os.environ.get("CONVNEXTV2_FAST_CPU") != "0"
        if not native or finding.compiler() is None:
            return None
        return subprocess.Popen([str(self.python), "-m", "tools.native", "ahead"], cwd=ROOT)

    def _make_torchvision_importable(self) -> None:
        code = "import torchvision"
        done = subprocess.run([str(self.python), "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0 and "torchvision::nms" in done.stderr:
            (site,) = self.folder.glob("lib/python*/site-packages")
            shutil.copy(OPERATORS, site)
            (site / f"{OPERATORS.stem}.pth").write_text(f"import {OPERATORS.stem}\n")

    def build(self) -> None:
        """The package in place, compiled anew where its sources, compiler or settings have changed."""
        compiler = finding.compiler()
        if compiler is None:
            print(
                "warning: no C++ compiler found: pure Python, without native kernels. For those: "
                "apt-get install g++, then make build",
                file=sys.stderr,
            )
        files = [p for name in NATIVE for p in (ROOT / name, *(ROOT / name).rglob("*")) if p.is_file()]
        settings = (f"{name}={os.environ.get(name, '')}" for name in VARIABLES)
        torch = (REQUIREMENTS / "torch.txt").read_text()
        known = digest((torch, str(ROOT), str(compiler), *settings), (f for f in files if f.suffix != ".pyc"))
        if self.is_recorded("build", known):
            return
        self.forget("build")
        with Phase("building convnextv2_fast", 15 if compiler else 5):
            if compiler and self.run("-m", "tools.native", "inplace") != 0:
                raise Failed(
                    "the build failed: see the compiler's message above. To go on in pure Python: "
                    "CONVNEXTV2_FAST_CPU=0 CONVNEXTV2_FAST_CUDA=0 make ..."
                )
            if self.pip("--no-build-isolation", "--no-deps", "-e", ".") != 0:
                raise Failed("pip could not install the package in place: see its message above")
            code = (
                "from convnextv2_fast import library as l; "
                "[print('  ', name, 'kernels:', l.why_not(name) or 'loaded') for name in ('cpu', 'cuda')]"
            )
            os.environ["CONVNEXTV2_FAST_QUIET"] = "1"  # the next line tells it
            if self.run("-W", "ignore", "-c", code) != 0:
                raise Failed("the package was built and cannot be imported: see above")
        self.record("build", known)


def main() -> int:
    """Exit code 1 with a message if something cannot be installed, 130 if interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tools.environment", description="Sets up what a purpose needs.")
    parser.add_argument("groups", nargs="*", choices=(*GROUPS, []), help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--venv", type=Path, default=Path(".venv"), help="the environment's folder (default .venv)")
    parser.add_argument("--package", action="store_true", help="build the package in place, too")
    options = parser.parse_args()
    environment = Environment(options.venv.absolute())
    try:
        environment.create()
        for group in GROUPS:
            if group in options.groups:
                environment.install(group)
        if options.package:
            environment.build()
    except Failed as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
