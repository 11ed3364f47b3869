"""`make gpu-account`: everything that is to be known of a machine with an NVIDIA GPU, within ten minutes.

Installs and downloads nothing, and takes the CUDA library as it was built beforehand. Each part runs in processes of
its own with a budget of its own: a crash, a hang or a missing package costs that part alone. Every measurement is on
disk as it comes, in OUT/account.csv; OUT/account.parts.csv has a line for each part, with what was left out and why.
The table comes last. Exit code 1: a result was wrong, or a part crashed.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

from . import machine, tidy
from .account import caches, children, page, plan
from .account.context import Context
from .account.page import Ended
from .account.plan import PARTS, Part
from .account.running import account

CACHE = "compiled.tar.gz"
LARGEST_LOG = 20 << 20  # bytes


def gpu_name() -> str | None:
    """The first GPU, from nvidia-smi: this process itself must not touch the device."""
    lines = machine.output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
    return lines[0].strip() if lines else None


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
    rows = tidy.readable(context.rows)
    for row in rows[:1]:
        if row.origin != context.origin:
            raise ValueError(f"cannot resume: the account there is of {row.origin}, this is {context.origin}")
    tidy.write(context.rows, rows)  # without lines that were cut off
    return page.read_parts(context.parts)


def keep_logs(context: Context) -> None:
    """All logs in one archive."""
    try:
        with tarfile.open(context.out / "logs.tar.gz", "w:gz") as tar:
            for path in sorted(context.work.iterdir()):
                if path.is_file() and path.stat().st_size < LARGEST_LOG:
                    tar.add(path, path.name)
    except OSError as error:
        print(f"the logs are not kept: {error}")


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
    origin = machine.origin(options.commit, "" if options.dry_run else gpu_name() or "")
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
    begun = time.monotonic() - age()
    try:
        wanted = choose([name for name in options.parts.split(",") if name])
        if not options.dry_run and gpu_name() is None:
            print("nvidia-smi shows no GPU: nothing was measured. Without one: --dry-run")
            return 0
        context = prepared(options)
        if not options.dry_run and not context.origin.commit:
            raise ValueError("no git here: name the commit (--commit), or nothing of this can be kept")
        before = begin(context, options.resume)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if not options.dry_run:
        caches.use()  # before torch's compiler reads the environment
    children.import_ahead()
    children.adopt()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    ended: list[Ended] = []
    try:
        why = "" if options.dry_run else unusable(context, options.cache)
        if why:
            ended = [Ended(part.name, "not begun", 0.0, 0, why) for part in wanted]
            page.write_parts(context.parts, ended)
        else:
            left = options.budget - (time.monotonic() - begun)
            ended = account(context, wanted, left, before, children.sweep)
    finally:
        gc.unfreeze()
        tidy.write(context.rows, tidy.merge([], tidy.readable(context.rows)))  # a part taken up again measures anew
        if not options.dry_run:
            print(f"== {keep_cache(context, begun + options.budget - 2)}")
        keep_logs(context)
    print(page.summary(tidy.readable(context.rows), ended))
    print(f"{time.monotonic() - begun:.0f} s in all")
    red = any("RED" in each.note or each.outcome == "crashed" for each in ended)
    return int(red)


def unusable(context: Context, cache: Path | None) -> str:
    """Why no process can use the device; empty: they can. Brings in the cache of an earlier account."""
    if cache is not None and cache.exists():
        try:
            print(f"== {caches.unpack(cache)} files of an earlier account's cache")
        except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
            print(f"== no cache: {cache.name} cannot be read: {error}")
    log = context.work / "start.log"
    how = children.choose_start(log)
    print(f"== {context.origin.machine}; processes: {how or 'none can use the device'}")
    return "" if how else f"no process can use the device: {children.last_line(log)}"


def age() -> float:
    """Seconds since this process began: importing torch takes some, and they count."""
    started = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


if __name__ == "__main__":
    raise SystemExit(main())
