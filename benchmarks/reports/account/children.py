"""Processes that are watched: a crash costs one of them, a hang ends in time, and none is left behind.

They are forked: each has torch imported already, which takes seconds otherwise. That works as long as this process has
not touched the device. Where a forked process cannot use the device all the same, `choose_start` has them spawned.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from convnextv2_fast.bench import peers

_start = "fork"


def processes() -> Any:
    """multiprocessing, with the way to start that was chosen."""
    return multiprocessing.get_context(_start)


def _inside(
    log: Path, group: bool, start: str, parent: int, function: Callable[..., object], arguments: Sequence[Any]
) -> None:
    """What a child runs: its output goes to the log, it ends without the parent's exit handlers."""
    global _start
    _start = start
    ends_with_its_parent(parent)
    if group:
        os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    sys.stdout, sys.stderr = (open(i, "w", buffering=1, closefd=False) for i in (1, 2))  # noqa: SIM115
    faulthandler.enable()
    code = 1
    try:
        function(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start(log: Path, function: Callable[..., object], *arguments: Any, group: bool = False) -> BaseProcess:
    """Starts `function(*arguments)`. `group`: in a group of its own, so that `end` reaches its children too."""
    process: BaseProcess = processes().Process(
        target=_inside, args=(log, group, _start, os.getpid(), function, arguments)
    )
    process.start()
    return process


def descendants(root: int) -> list[int]:
    """Everything that a process started, and those started in turn, from /proc."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found, new = [], [root]
    while new:
        new = [pid for pid, parent in parents.items() if parent in new]
        found += new
    return found


def kill(*pids: int) -> None:
    """Ends processes at once. One that is gone is no error."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def end(*processes: BaseProcess, group: bool = False) -> None:
    """Ends processes that `start` began, and everything that they started: compilers work on in processes of their own.
    All are ended before any is waited for."""
    pids = [process.pid for process in processes if process.pid is not None]
    below = [pid for root in pids for pid in descendants(root)]
    for pid in pids if group else []:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # whether or not its leader is still there
    for process in processes:
        with contextlib.suppress(ValueError):
            process.kill()
    kill(*below)
    for process in processes:
        finish = time.monotonic() + 5
        while process.exitcode is None and time.monotonic() < finish:
            time.sleep(0.01)


def adopt() -> None:
    """From now on a process whose parent has ended becomes a child of this one, so that `sweep` finds it."""
    _prctl(_SUBREAPER, 1)


def sweep() -> None:
    """Ends everything that this process started, or adopted, and that still runs."""
    kill(*(pid for pid in descendants(os.getpid()) if not _is_tracker(pid)))
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _is_tracker(pid: int) -> bool:
    """Whether it is multiprocessing's own, which spawned processes need."""
    with contextlib.suppress(OSError):
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


_PDEATHSIG, _SUBREAPER = 1, 36  # of linux/prctl.h


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def ends_with_its_parent(parent: int) -> None:
    """Has the system end this process when the one that started it, number `parent`, ends, however that may be."""
    _prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def wait(process: BaseProcess, ends: float, group: bool = False) -> int | None:
    """The exit code; None if the process had to be ended at `ends` (on :func:`time.monotonic`'s clock).

    Asks again and again: what join() waits for is held open by the children of a process that has ended."""
    while process.exitcode is None and time.monotonic() < ends:
        time.sleep(0.02)
    code = process.exitcode
    end(process, group=group)
    return code


def spread(
    jobs: Iterable[tuple[str, Callable[..., object], Sequence[Any]]],
    *,
    log: Callable[[str], Path],
    ends: float,
    at_once: int,
) -> Iterator[tuple[str, int | None]]:
    """Runs jobs (name, function, arguments), several at a time. Gives (name, exit code) as each ends; None: it was
    ended, or never begun, because time was up."""
    waiting = list(jobs)
    running: dict[str, BaseProcess] = {}
    try:
        while waiting or running:
            late = time.monotonic() >= ends
            while waiting and len(running) < at_once and not late:
                name, function, arguments = waiting.pop(0)
                running[name] = start(log(name), function, *arguments)
            if late:
                codes = {name: process.exitcode for name, process in running.items()}
                end(*running.values())
                running.clear()
                yield from codes.items()
                yield from ((name, None) for name, _, _ in waiting)
                return
            for name, process in list(running.items()):
                if process.exitcode is not None:
                    del running[name]
                    yield name, wait(process, ends)
            time.sleep(0.02)
    finally:
        end(*running.values())


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except FileNotFoundError:
        return "no output"
    return lines[-1][:200] if lines else "no output"


def ending(code: int | None, log: Path) -> str:
    """How a process ended, for a note."""
    if code is None:
        return "time was up"
    if code < 0:
        return f"ended by signal {signal.Signals(-code).name}"
    return f"exit code {code}: {last_line(log)}"


def import_ahead() -> None:
    """Imports here what every forked process would import for itself: seconds each time. Touches no device."""
    import torch._dynamo
    import torch._inductor  # noqa: F401

    with contextlib.suppress(Exception):  # the part that needs timm says what is wrong with it
        peers.load("timm")
    gc.freeze()  # a collection in a child would copy all that memory, page by page


def _touch_device() -> None:
    import torch

    torch.zeros(1, device="cuda").add_(1).item()


def choose_start(log: Path, seconds: float = 60.0) -> str:
    """How processes are started that can use the device: "fork", or "spawn" if a forked one cannot; "" if none can."""
    global _start
    for _start in ("fork", "spawn"):
        if wait(start(log, _touch_device), time.monotonic() + seconds) == 0:
            return _start
    return ""
