"""Files of JSON lines: read back whatever became of their last writer, and appended to whatever becomes of the disk."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import TrainingError

Record = dict[str, Any]


def write_lines(path: Path, records: list[Record]) -> None:
    """Replaces a file at once.

    Raises:
        TrainingError: it cannot be written; what was there is untouched.
    """
    partial = path.with_name(f".{path.name}.writing")
    try:
        partial.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise TrainingError(f"{path}: cannot be written: {error}") from error


def read_lines(path: Path) -> list[Record]:
    """The records of a file. Lines that are empty, cut off or no JSON objects are left out: a full disk or a lost power
    supply leaves such lines, and bytes that are no text, anywhere in a file that was appended to afterwards.

    Raises:
        TrainingError: no such file.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise TrainingError(f"{path}: cannot read it: {error}") from error
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line.strip("\0 "))  # some file systems fill up with zeros what was not written
            if isinstance(record, dict):
                found.append(record)
    return found


class Lines:
    """Appends records to a file. What cannot be written is said once, and waits until it can.

    Args:
        say: is told of the disk.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path, self.say = path, say
        self.waiting: list[Record] = []
        self.failed = False

    def add(self, records: list[Record]) -> None:
        """Appends these, and those that wait."""
        self.waiting += records
        if not self.waiting:
            return
        try:
            self._write("".join(json.dumps(r) + "\n" for r in self.waiting).encode())
        except OSError as error:
            if not self.failed:
                self.say(
                    f"error: cannot write {self.path}: {error.strerror or error}; training continues, and tries again"
                )
            self.failed = True
            return
        if self.failed:
            self.say(f"{self.path} is written again, nothing is missing in it")
        self.waiting, self.failed = [], False

    def _write(self, data: bytes) -> None:
        """All or nothing: half a line would swallow the next."""
        with open(self.path, "ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(end)
                raise

    def close(self) -> None:
        """Tries for the last time."""
        self.add([])
        if self.waiting:
            number = "1 line" if len(self.waiting) == 1 else f"{len(self.waiting)} lines"
            self.say(f"error: {self.path} lacks its last {number}, which could not be written")
