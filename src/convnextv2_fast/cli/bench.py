"""`bench`: times of a whole model per backend, beside torch.compile and its peers where asked for.

On a CPU each row is measured in processes of its own; on a GPU all rows share this one (:mod:`..bench.alone` says why).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import dispatch
from ..bench import apart, peers, plot, providers
from ..bench.models import NAMES
from ..bench.report import report
from ..bench.rows import Row, compare, output, take
from ..bench.settings import first_line, one_line, threads
from . import env
from .arguments import DTYPES, CommandError, count, device, path, positive, require_device
from .text import progress

SCHEMA = 2
TURNS = 3
_PLOT_TYPES = (".png", ".svg", ".pdf")


def add_parser(commands: Any) -> None:
    """Adds the command to argparse's subparsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "bench",
        help="times of a whole model per backend",
        description="Times a whole model with random weights and images: this library per backend, and torch.compile "
        "and peers if asked for. Every row must first agree with the torch backend. On a CPU each row then runs alone, "
        "in processes of its own, in turn; on a GPU rounds are interleaved. 'train' is forward and backward, "
        "without an optimizer.",
    )
    add = parser.add_argument
    add("--model", default="tiny", choices=NAMES, metavar="NAME", help=f"{', '.join(NAMES)} (default: tiny)")
    add("--batch", type=positive, help="images per call (default: 1 on a CPU, 64 on a GPU)")
    add("--size", type=positive, default=224, help="image height and width (default: 224)")
    add("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="default: float32")
    add("--device", type=device, help="default: the GPU if torch sees one, else the CPU")
    add("--mode", default="infer", choices=("infer", "train"), help="default: infer")
    add("--turns", type=positive, help=f"on a CPU: processes that time each row (default: {TURNS})")
    add("--rounds", type=positive, default=10, help="times taken of each row, by each process (default: 10)")
    add("--warmup", type=count, default=3, help="calls of each row beforehand (default: 3, at least 1)")
    add("--neighbour", action="store_true", help="on a CPU: a busy process runs beside each row")
    add("--backend", action="append", choices=dispatch.NAMES, help="repeatable (default: auto and torch)")
    add("--freeze", action="store_true", help="add a row: this library's model, frozen (inference)")
    add("--compile", action="store_true", help="add rows: torch.compile of the torch backend and of peers")
    add("--peer", action="append", choices=peers.NAMES, default=[], help="the same weights elsewhere; repeatable")
    add("--threads", type=positive, help="threads on the CPU (default: torch's)")
    add("--json", type=path, metavar="FILE", help="write everything measured")
    add("--plot", type=path, metavar="FILE", help=f"draw a bar chart ({', '.join(_PLOT_TYPES)}); needs matplotlib")
    parser.set_defaults(run=run)


def _limit(dtype: torch.dtype, at: torch.device) -> float:
    """How far, relatively, an output may lie from the torch backend's before a row gets no times."""
    if dtype != torch.float32:
        return 16 * torch.finfo(dtype).eps
    tf32 = torch.backends.cudnn.allow_tf32 or torch.get_float32_matmul_precision() != "highest"
    return 5e-3 if at.type == "cuda" and tf32 else 1e-4


def _check_outputs(args: argparse.Namespace) -> None:
    """Before anything is measured: files can be written, and what draws the plot is there."""
    for file in (args.json, args.plot):
        if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
            raise CommandError(f"{file}: there is no such folder to write a file to")
    if args.plot is not None:
        if args.plot.suffix not in _PLOT_TYPES:
            raise CommandError(f"--plot {args.plot.name}: the name must end in {', '.join(_PLOT_TYPES)}")
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            raise CommandError("--plot needs matplotlib: python -m pip install matplotlib") from None


def _request(args: argparse.Namespace) -> providers.Request:
    """What is asked for."""
    return providers.Request(
        args.model,
        args.batch,
        args.size,
        DTYPES[args.dtype],
        args.device,
        args.mode == "train",
        args.backend or (),
        args.peer,
        args.compile,
        args.freeze,
    )


def _wanted(reference: Row, at: torch.device) -> Tensor:
    """The output that all rows are compared with."""
    try:
        return output(reference, at)
    except dispatch.UnsupportedInputError:
        raise
    except Exception as error:
        raise CommandError(f"the torch backend cannot run this: {first_line(error)}") from error


def _together(rows: list[Row], args: argparse.Namespace, at: torch.device) -> None:
    """Builds, checks, warms up and times every row in this process."""
    found, reference = providers.rows(_request(args))
    want = _wanted(reference, at)
    rows += found
    with progress(f"{args.model}, {args.mode}", len(rows) * (1 + args.rounds)) as advance:
        for row in rows:
            if row.error is None:
                try:
                    compare(row, want, _limit(DTYPES[args.dtype], at), at)
                except Exception as error:  # of a kernel or a compiler: a line of the report, not its end
                    row.error = one_line(error, 1)
            advance()
        take(rows, at, warmup=args.warmup, rounds=args.rounds, after=advance)


def _apart(rows: list[Row], args: argparse.Namespace, at: torch.device) -> None:
    """The same, each row in processes of its own."""
    request = _request(args)
    number = len(providers.entries(request))
    want = _wanted(providers.reference(request), at)
    with progress(f"{args.model}, {args.mode}", number * (1 + args.turns)) as advance:
        limit, neighbour = _limit(request.dtype, at), args.neighbour
        counts = {"turns": args.turns, "warmup": args.warmup, "rounds": args.rounds}
        apart.measure(request, want, limit, **counts, neighbour=neighbour, after=advance, rows=rows)


def _measure(rows: list[Row], args: argparse.Namespace, at: torch.device) -> bool:
    """Adds every row, checked and timed; False if it was interrupted."""
    try:
        (_apart if at.type == "cpu" else _together)(rows, args, at)
    except peers.Unavailable as reason:
        raise CommandError(str(reason)) from None
    except KeyboardInterrupt:
        return False
    return True


def _title(args: argparse.Namespace, found: dict[str, Any], at: torch.device) -> str:
    box = found["machine"]
    where = box["gpus"][at.index]["name"] if at.type == "cuda" else f"{box['cpu']}, threads: {torch.get_num_threads()}"
    work = "inference" if args.mode == "infer" else "forward and backward"
    sizes = f"batch {args.batch}, {args.size}x{args.size}, {args.dtype}"
    return f"{args.model}, {work}, {sizes}; {where}; torch {found['versions']['torch']}"


def _taken(args: argparse.Namespace, at: torch.device) -> str:
    """How the times of the table were taken."""
    if at.type != "cpu":
        return "ms: median, 20th and 80th percentile of a call; rounds of all rows interleaved"
    turns = "one turn" if args.turns == 1 else f"{args.turns} turns"
    beside = ", beside a busy process" if args.neighbour else ""
    return f"ms: each row alone in a process of its own, in turn{beside}; median, 20th and 80th percentile of {turns}"


def _as_json(args: argparse.Namespace, found: dict[str, Any], rows: Sequence[Row], complete: bool) -> dict[str, Any]:
    arguments = {k: v for k, v in vars(args).items() if k not in ("run", "command", "json", "plot")}
    results = []
    for row in rows:
        times = row.timing.percentiles() if row.timed else dict.fromkeys(("ms", "p20", "p80"))
        middle = times["ms"]
        results.append(
            {
                "label": row.label,
                "ops": row.ops,
                "median_ms": middle,
                "p20_ms": times["p20"],
                "p80_ms": times["p80"],
                "images_per_second": args.batch * 1e3 / middle if middle else None,
                "extra_memory_bytes": row.extra_memory,
                "difference_from_torch_backend": row.difference,
                "calls_per_round": row.timing.iterations,
                "times_ms": [1e3 * seconds for seconds in row.timing.seconds],
                "error": row.error,
            }
        )
    return {
        "schema": SCHEMA,
        "complete": complete,
        "arguments": {k: str(v) if isinstance(v, torch.device) else v for k, v in arguments.items()},
        **found,
        "rows": results,
    }


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes; 0, 1 if a row could not be measured, 130 if interrupted.

    Raises:
        CommandError, UnsupportedInputError: the arguments ask for what cannot be.
    """
    at = require_device(args.device or torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if at.type == "cpu":
        args.turns = args.turns or TURNS
    elif args.turns or args.neighbour:
        raise CommandError("--turns and --neighbour are for --device cpu: on a GPU all rows share one process")
    args.device, args.batch = at, args.batch or (64 if at.type == "cuda" else 1)
    _check_outputs(args)
    rows: list[Row] = []
    with threads(args.threads), torch.cuda.device(at) if at.type == "cuda" else contextlib.nullcontext():
        found = env.collect()
        complete = _measure(rows, args, at)
        title = _title(args, found, at)
    if not complete:
        print("interrupted; this is what was measured until then", file=sys.stderr)
    report(title, rows, args.batch, at.type == "cuda", _taken(args, at))
    try:
        if args.json is not None:
            args.json.write_text(json.dumps(_as_json(args, found, rows, complete), indent=1) + "\n", encoding="utf-8")
        if args.plot is not None and any(row.timed for row in rows):
            plot.draw(args.plot, title, rows)
    except OSError as error:
        raise CommandError(f"cannot write: {error}") from error
    if not complete:
        return 130
    return 1 if any(row.error and not row.absent for row in rows) else 0
