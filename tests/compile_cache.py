"""Compiles a file again only when its command, or a file that it was made from, has changed."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """What the command printed, on both streams."""
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[-3:])}\n{done.stdout[-6000:]}")
    return done.stdout


def _stamp(command: Sequence[str], depends: Path) -> str:
    """Of the command and the sources that the compiler lists; those outside the repository do not change."""
    names = depends.read_text().replace("\\\n", " ").partition(": ")[2].split()
    known = hashlib.sha256(repr(tuple(command)).encode())
    for path in sorted(Path(name).resolve() for name in names):
        if path.is_relative_to(ROOT):
            known.update(path.read_bytes() if path.exists() else b"gone")
    return known.hexdigest()


def compile_once(command: Sequence[str], made: Path, tag: str = "") -> Path:
    """Runs `command -o made`, if need be; `<made>.log` keeps what it printed. `tag`: the versions of the tools."""
    depends, stamp, log = (made.with_name(made.name + suffix) for suffix in (".d", ".stamp", ".log"))
    keyed = (*command, tag)
    if all(path.exists() for path in (made, depends, stamp, log)) and stamp.read_text() == _stamp(keyed, depends):
        return made
    stamp.unlink(missing_ok=True)
    log.write_text(run([*command, "-MD", "-MF", str(depends), "-o", str(made)]))
    stamp.write_text(_stamp(keyed, depends))
    return made


def digest(paths: Iterable[Path]) -> str:
    """Of the files' names and bytes: what a committed table was made from."""
    known = hashlib.sha256()
    for path in sorted(paths):
        known.update(f"{path.relative_to(ROOT).as_posix()} {path.stat().st_size} ".encode() + path.read_bytes())
    return known.hexdigest()[:16]
