"""The tests marked `cuda`, several processes at a time, since most of theirs goes to compiling Triton kernels.

A process that crashes, or loses the device, loses the test it was at; another one goes on behind it.
"""

from __future__ import annotations

import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from convnextv2_fast.bench import peers

from . import programs
from .context import Context

RESTARTS = 4
DEVICE_LOST = 86  # pytest's exit code then, of tests/conftest.py
OUTCOME = re.compile(r"^.*::.* (PASSED|FAILED|ERROR|SKIPPED)\b", re.MULTILINE)


def run(context: Context) -> None:
    if not peers.installed("pytest"):
        context.say("pytest is not installed")
        return
    shards = 1 if context.dry else min(12, max(1, (os.cpu_count() or 1) * 3 // 4))
    with ThreadPoolExecutor(shards) as pool:
        texts = list(pool.map(lambda i: shard(context, i, shards), range(shards)))
    context.say(outcome("\n".join(texts)))


def outcome(text: str) -> str:
    """How many tests passed, failed and so on."""
    words = OUTCOME.findall(text)
    counts = {word: words.count(word) for word in ("PASSED", "FAILED", "ERROR", "SKIPPED")}
    said = ", ".join(f"{count} {word.lower()}" for word, count in counts.items() if count) or "none ran"
    red = "RED " if counts["FAILED"] or counts["ERROR"] else ""
    return f"{red}{said}" + ("; time was up" if "time was up" in text else "")


def shard(context: Context, i: int, shards: int) -> str:
    """The output of every `shards`-th test, from the i-th."""
    what = ["tests/benchmarks/test_tidy.py", "--collect-only"] if context.dry else ["tests", "-m", "cuda"]
    command = [sys.executable, "-m", "pytest", *what, "-v", "-rN", "--tb=short", "-p", "no:cacheprovider"]
    ends, text = context.ends - 1, ""
    for attempt in range(RESTARTS + 1):
        log, after = context.log(f"{i}-{attempt}"), len(OUTCOME.findall(text))
        part = [*command, "--shard", f"{i}/{shards}", "--after", str(after)]
        code = programs.finish(programs.begin(part, log), ends)
        text += log.read_text(errors="replace")
        if code is None:
            return text + "\ntime was up\n"
        if code in (0, 1, 5) or time.monotonic() > ends:
            break
        if code != DEVICE_LOST:
            text += f"\n::the test behind those of {log.name} ERROR\n"  # which takes its place in the count
    return text
