"""A revision in a folder of its own, with its native library, and a process that holds it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convnextv2_fast.bench import timing

from ..reports.machine import ROOT

WORKER = Path(__file__).with_name("worker.py")
SOURCE = Path("src") / "convnextv2_fast"
NATIVE = ("csrc", "cmake", "CMakeLists.txt")
LIBRARIES = ("_C_cpu.so", "_C_cuda.so", "_build_info.json")


def git(*arguments: str) -> str:
    """Output of git in this repository. ValueError with its message if it fails."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise ValueError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The folder of a revision with its native library; both are gone after the block.

    Raises:
        ValueError: its library could not be compiled.
    """
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "base"
        git("worktree", "add", "--detach", str(tree), commit)
        try:
            add_libraries(tree, commit)
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


def add_libraries(tree: Path, commit: str) -> None:
    """Compiles the native libraries of the tree, or takes those of the working tree, or of an earlier comparison."""
    alike = subprocess.run(["git", "diff", "--quiet", commit, "--", *NATIVE], cwd=ROOT).returncode == 0
    sources = git("ls-tree", commit, *NATIVE)
    kept = ROOT / SOURCE if alike else ROOT / "build" / "compare" / hashlib.sha256(sources.encode()).hexdigest()[:16]
    if not kept.exists():
        print("compiling the base's native library: minutes", flush=True)
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        if subprocess.run(command, cwd=tree, stdout=subprocess.DEVNULL).returncode != 0:  # its progress is on stderr
            raise ValueError("the base's library could not be compiled, see above")
        kept.mkdir(parents=True)
        for path in filter(Path.exists, (tree / SOURCE / name for name in LIBRARIES)):
            shutil.copy(path, kept)
    for path in filter(Path.exists, (kept / name for name in LIBRARIES)):
        shutil.copy(path, tree / SOURCE)


class Worker:
    """A process that holds one revision."""

    def __init__(self, tree: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(tree / "src"), "CONVNEXTV2_FAST_QUIET": "1"}
        command = [sys.executable, str(WORKER), str(timing.__file__)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        # In a session of its own: Ctrl-C is for this process, which ends that one.
        self.process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)

    def ask(self, **question: Any) -> float:
        """The seconds that it answers. ValueError: it could not, and says why."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ValueError(f"its process ended with code {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer["seconds"]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
