"""`make gpu-account`: everything that is to be known of a machine with an NVIDIA GPU, within ten minutes.

Installs and downloads nothing, and takes the CUDA library as it was built beforehand. Each part runs in processes of
its own with a budget of its own: a crash, a hang or a missing package costs that part alone. Every measurement is on
disk as it comes, in OUT/account.csv; OUT/account.parts.csv has a line for each part, with what was left out and why.
The table comes last. Exit code 1: a result was wrong, or a part crashed.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

from . import _machine, tidy
from .account import caches, children, page, plan
from .account.context import Context
from .account.page import Ended
from .account.plan import PARTS, Budget, Part

CACHE = "compiled.tar.gz"
SHORTEST = 5.0  # seconds: with less a part is not begun


def gpu_name() -> str | None:
    """The first GPU, from nvidia-smi: this process itself must not touch the device."""
    lines = _machine.output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
    return lines[0].strip() if lines else None


def enter(part: Part, context: Context) -> None:
    """What a part's process runs."""
    part.run(context)


def run(part: Part, context: Context, seconds: float) -> Ended:
    """Runs one part in its processes, and says how it ended."""
    context = context.of(part.name, seconds)
    begun = time.monotonic()
    log = context.log("part")
    process = children.start(log, enter, part, context, group=True)
    try:
        code = children.wait(process, context.ends + 2, group=True)
    finally:
        children.end(process, group=True)
    rows = len(tidy.read(context.rows)) - len(context.done)
    outcome = {0: "done", None: "time was up"}.get(code, "crashed")
    said = context.said() + ([children.ending(code, log)] if outcome == "crashed" else [])
    return Ended(part.name, outcome, round(time.monotonic() - begun, 1), rows, "; ".join(said)[:2000])


def begin(context: Context, resume: bool) -> list[Ended]:
    """An empty account, or the one to be taken up again and how its parts ended.

    Raises:
        ValueError: it is of another machine, version or commit.
    """
    if not (resume and context.rows.exists()):
        shutil.rmtree(context.work, ignore_errors=True)
        context.work.mkdir(parents=True)
        tidy.write(context.rows, [])
        return []
    context.work.mkdir(parents=True, exist_ok=True)
    rows = tidy.read(context.rows)
    for row in rows[:1]:
        if row.origin != context.origin:
            raise ValueError(f"cannot resume: the account there is of {row.origin}, this is {context.origin}")
    tidy.write(context.rows, rows)  # without a last line that was cut off
    return page.read_parts(parts_file(context))


def parts_file(context: Context) -> Path:
    return context.out / "account.parts.csv"


def account(context: Context, wanted: Sequence[Part], total: float, before: Sequence[Ended]) -> list[Ended]:
    """Runs the parts in order. How they ended is on disk after each."""
    ended = {each.part: each for each in before}
    budget = Budget(total, wanted)
    for part in wanted:
        seconds = budget.slice(part)
        if seconds < min(part.most, SHORTEST):
            ended[part.name] = Ended(part.name, "not begun", 0.0, 0, f"{seconds:.0f} s of {total:.0f} were left for it")
        else:
            print(f"== {part.name}, up to {seconds:.0f} s: {part.answers}", flush=True)
            ended[part.name] = run(part, context, seconds)
        page.write_parts(parts_file(context), ended.values())
    return list(ended.values())


def keep_logs(context: Context) -> None:
    """All logs in one archive."""
    with tarfile.open(context.out / "logs.tar.gz", "w:gz") as tar:
        for path in sorted(context.work.iterdir()):
            if path.is_file():
                tar.add(path, path.name)


def keep_cache(context: Context, ends: float) -> str:
    """Brings the compilers' cache back, as far as time goes; says what became of it."""
    archive, log = context.out / CACHE, context.work / "cache.log"
    if children.wait(children.start(log, pack, archive), ends) == 0:
        return children.last_line(log)
    archive.unlink(missing_ok=True)
    return "the compilers' cache is not kept: time was up"


def pack(archive: Path) -> None:
    print(caches.pack(archive))


def choose(names: Sequence[str]) -> list[Part]:
    """The parts of these names, in their order; without names those that need not be asked for.

    Raises:
        ValueError: there is no such part.
    """
    unknown = sorted(set(names) - set(plan.NAMES))
    if unknown:
        raise ValueError(f"no such part: {', '.join(unknown)}; there are {', '.join(plan.NAMES)}")
    return [part for part in PARTS if (part.name in names if names else not part.on_request)]


def prepared(options: argparse.Namespace) -> Context:
    """Where the account goes, and what its rows begin with."""
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.gettempdir()) / f"gpu-account-{zlib.crc32(str(out).encode()):08x}"
    origin = _machine.origin(options.commit, "" if options.dry_run else gpu_name() or "")
    return Context(out, work, origin, "cpu" if options.dry_run else "cuda", options.dry_run)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make gpu-account", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="directory of the account")
    parser.add_argument("--parts", default="", help=f"these alone, separated by commas: {', '.join(plan.NAMES)}")
    parser.add_argument("--budget", type=float, default=plan.TOTAL, help=f"seconds in all (default {plan.TOTAL:.0f})")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there, measure what is missing")
    parser.add_argument(
        "--dry-run", action="store_true", help="the same code on a CPU, tiny: it tests the account itself"
    )
    parser.add_argument("--cache", type=Path, help=f"{CACHE} of an earlier account: what compilers made then")
    parser.add_argument(
        "--commit", default="", help="where there is no git: what `git describe --always --abbrev=40 --dirty` says"
    )
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    try:
        wanted = choose([name for name in options.parts.split(",") if name])
        if not options.dry_run and gpu_name() is None:
            print("nvidia-smi shows no GPU: nothing was measured. Without one: --dry-run")
            return 0
        context = prepared(options)
        before = begin(context, options.resume)
    except ValueError as error:
        parser.error(str(error))
    if not options.dry_run:
        caches.use()  # before torch's compiler reads the environment
    children.import_ahead()
    if not options.dry_run:
        if options.cache is not None and options.cache.exists():
            print(f"== {caches.unpack(options.cache)} files of an earlier account's cache")
        how = children.choose_start(context.work / "start.log")
        print(f"== {context.origin.machine}; processes: {how}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        ended = account(context, wanted, options.budget - (time.monotonic() - begun), before)
    finally:
        gc.unfreeze()
        if not options.dry_run:
            print(f"== {keep_cache(context, begun + options.budget - 2)}")
        keep_logs(context)
    print(page.summary(tidy.read(context.rows), ended))
    print(f"{time.monotonic() - begun:.0f} s in all")
    red = any("RED" in each.note or each.outcome == "crashed" for each in ended)
    return int(red)


if __name__ == "__main__":
    raise SystemExit(main())
