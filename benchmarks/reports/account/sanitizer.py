"""compute-sanitizer over every native kernel, on small shapes: memcheck and racecheck, at the same time."""

from __future__ import annotations

import re
import shutil
import sys

from tools.kernels import sanitize_gpu

from . import children, programs
from .context import Context

TOOLS = ("memcheck", "racecheck")
REPORTED = re.compile(r"^=========\s+(at |.*Race reported|Invalid |Uninitialized )", re.MULTILINE)
FOUND = 86  # the exit code by which the tool says that it found something


def run(context: Context) -> None:
    if context.dry:
        context.say(f"{sanitize_gpu.run_all(context.device, ['float32'], ('cpu',))} kernel runs, unwatched")
        return
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        context.say("compute-sanitizer is not on PATH")
        return
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "CUDA_MODULE_LOADING": "LAZY"}
    running = {}
    for check in TOOLS:
        command = [tool, "--tool", check, "--error-exitcode", str(FOUND), sys.executable, "-m", sanitize_gpu.__name__]
        running[check] = programs.begin([*command, "--device", "cuda"], context.log(check), **environment)
    for check, process in running.items():
        code, log = programs.finish(process, context.ends - 1), context.log(check)
        text = log.read_text(errors="replace")
        if code == FOUND or REPORTED.search(text):
            context.say(f"RED {check} found something: see the log")
        elif code == 0:
            context.say(f"{check} found nothing: {children.last_line(log)}")
        else:
            context.say(
                f"{check} found nothing until it ended ({children.ending(code, log)}): {children.last_line(log)}"
            )
