"""Processes that are watched: a crash costs one of them, a hang ends in time, and none is left behind.

They are forked: each has torch imported already, which takes seconds otherwise. That works as long as this process has
not touched the device. Where a forked process cannot use the device all the same, `choose_start` has them spawned.
"""

from __future__ import annotations

import contextlib
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

from .. import peers

_start = "fork"


def processes() -> Any:
    """multiprocessing, with the way to start that was chosen."""
    return multiprocessing.get_context(_start)


def _inside(log: Path, group: bool, start: str, function: Callable[..., object], arguments: Sequence[Any]) -> None:
    """What a child runs: its output goes to the log, it ends without the parent's exit handlers."""
    global _start
    _start = start
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
    process: BaseProcess = processes().Process(target=_inside, args=(log, group, _start, function, arguments))
    process.start()
    return process


def end(process: BaseProcess, group: bool = False) -> None:
    """Ends a process that `start` began; with `group`, and everything that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if group and process.pid is not None and os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ValueError):
        process.kill()
    process.join(5)


def wait(process: BaseProcess, ends: float, group: bool = False) -> int | None:
    """The exit code; None if the process had to be ended at `ends` (on :func:`time.monotonic`'s clock)."""
    process.join(max(0.0, ends - time.monotonic()))
    code = process.exitcode
    end(process, group)
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
            for name, process in list(running.items()):
                if process.exitcode is not None or late:
                    del running[name]
                    yield name, wait(process, ends)
            if late:
                yield from ((name, None) for name, _, _ in waiting)
                return
            time.sleep(0.02)
    finally:
        for process in running.values():
            end(process)


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
        peers.import_timm()
    gc.freeze()  # a collection in a child would copy all that memory, page by page


def _touch_device() -> None:
    import torch

    torch.zeros(1, device="cuda").add_(1).item()


def choose_start(log: Path, seconds: float = 60.0) -> str:
    """Tries the device in a forked process; if that fails, children are spawned from now on. Says which it is."""
    global _start
    _start = "fork" if wait(start(log, _touch_device), time.monotonic() + seconds) == 0 else "spawn"
    return _start
