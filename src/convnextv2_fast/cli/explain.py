"""`explain`: which backend runs an op, and why not the others, for a call that need not fit this machine."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

import torch

from .. import dispatch, ops
from ..bench.tables import print_table
from .arguments import DTYPES, CommandError, device, positive

_LAYOUTS = ("dense", "patch", "site")


def add_parser(commands: Any) -> None:
    """Adds the command to argparse's subparsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "explain",
        help="which backend runs an op, and why not the others",
        description="Prints which backend would run OP on such an input, and why not the others; one line per op "
        "without OP. Nothing is allocated or computed: the device need not exist.",
    )
    add = parser.add_argument
    add("op", nargs="?", metavar="OP", help=f"one of {', '.join(dispatch.registered_ops())}; all of them if left out")
    add("--shape", nargs=4, type=positive, default=[1, 56, 56, 96], metavar=("N", "H", "W", "C"), help="of the input")
    add("--dtype", default="float32", choices=DTYPES, help="of the activations (default: float32)")
    add("--param-dtype", choices=DTYPES, help="of the parameters (default: as the activations)")
    add("--device", type=device, default=torch.device("cpu"), help="cpu (default) or cuda")
    add("--layout", default="dense", choices=_LAYOUTS, help="of the rows (default: dense)")
    add("--backend", choices=dispatch.NAMES, help="explain this explicit choice, as by the argument backend=")
    add("--grad", action="store_true", help="something needs a gradient")
    parser.set_defaults(run=run)


def _takes_layout(op: str) -> bool:
    return "layout" in inspect.signature(getattr(ops, op)).parameters


def _explain(op: str, args: argparse.Namespace) -> dispatch.Explanation:
    layout = args.layout if _takes_layout(op) else "dense"  # the others see rows, whatever their layout
    dtype = DTYPES[args.dtype]
    params = DTYPES[args.param_dtype] if args.param_dtype else dtype
    spec = dispatch.Spec(op, args.device.type, dtype, params, args.shape[3], layout, args.grad)
    return dispatch.explain_spec(spec, args.backend)


def _row(found: dispatch.Explanation) -> tuple[str, str, str, str]:
    others = {name: reasons for name, reasons in found.reasons.items() if name != found.chosen}
    possible = ", ".join(name for name, reasons in others.items() if not reasons)
    return (
        found.spec.op,
        found.chosen or "an error",
        possible or "-",
        ", ".join(n for n, r in others.items() if r) or "-",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the explanation; 0.

    Raises:
        CommandError: unknown op.
    """
    known = dispatch.registered_ops()
    if args.op is None:
        rows = [_row(_explain(op, args)) for op in known]
        print(_explain(known[0], args).spec._replace(layout=args.layout).describe())
        print_table(("op", "runs on", "possible too", "cannot run it"), rows)
        print("explain OP gives the reasons")
        return 0
    if args.op not in known:
        raise CommandError(f"unknown op {args.op!r}: the ops are {', '.join(known)}")
    print(_explain(args.op, args))
    if args.layout != "dense" and not _takes_layout(args.op):
        print(f"  {args.op} takes no layout: it sees rows, one like the other")
    return 0
