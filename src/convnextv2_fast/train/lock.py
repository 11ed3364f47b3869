"""One run at a time in an output folder."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from ..errors import TrainingError
from .config import TrainConfig
from .parallel import Processes
from .saving import Folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
_held: set[str] = set()  # by this process, which the system would let in twice


@contextlib.contextmanager
def output_folder(config: TrainConfig, among: Processes) -> Iterator[Folder | None]:
    """`--output_dir`, made where it is absent, and claimed for this run; None where none is given.

    Raises:
        TrainingError: in every process: another run has it, or it cannot be written to.
    """
    folder = Folder(Path(config.output_dir), config.save_ckpt_num) if config.output_dir else None
    with contextlib.ExitStack() as claims:
        problem = None
        if folder is not None and among.first:
            try:
                folder.make()
                claims.enter_context(claimed(folder.path))
                folder.tidy()
            except TrainingError as error:
                problem = str(error)
        problem = among.from_first(problem)
        if problem:
            raise TrainingError(problem)
        yield folder


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a folder. The system ends the claim with the process, however that ends; the file stays.

    This is the record lock of `fcntl`, which belongs to the process: that of `flock` would pass to the loader
    processes, which may outlive a killed run by seconds, and refuse the run that is to take its place.

    Raises:
        TrainingError: another run has the folder, or it cannot be written to.
    """
    place = os.path.realpath(folder)
    if place in _held:
        raise TrainingError(_taken(folder, "this process"))
    try:
        file = open(folder / NAME, "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be an output folder: {error}") from error
    with file:
        try:
            if fcntl is not None:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            raise TrainingError(_taken(folder, file.read().strip() or "another process")) from None
        except OSError:
            pass  # a file system without locks
        with contextlib.suppress(OSError):  # a full disk
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        _held.add(place)
        try:
            yield
        finally:
            _held.discard(place)


def _taken(folder: Path, who: str) -> str:
    return f"{folder}: another run writes into it ({who}); wait for its end, stop it, or give another --output_dir"
