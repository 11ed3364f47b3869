"""The command line, `python -m convnextv2_fast COMMAND`.

Each command is a module with `add_parser(commands)` and `run(args) -> int`. It needs torch only, the training commands
(from `pretrain` on) also the packages of the extra `train`; rich and matplotlib are used where installed and asked for.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import __version__, dispatch
from .._start import INTERRUPTED
from ..errors import TrainingError, UnsupportedInputError
from . import bench, check, convert, env, explain, finetune, predict, pretrain, reconstruct
from .arguments import CommandError

PROG = "python -m convnextv2_fast"
BAD_USE, CUT_OFF = 2, 141


class _CommandParser(argparse.ArgumentParser):
    """A command's parser: a bad value gives one line, not the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_USE, f"{self.prog}: error: {message} (--help lists the options)\n")


class _TopHelp(argparse.HelpFormatter):
    """Leaves room for the longest command's name beside its description."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._action_max_length = len("reconstruct") + 4


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog=PROG, description="ConvNeXt V2 and FCMAE on hand-written kernels.", formatter_class=_TopHelp
    )
    top.add_argument("--version", action="version", version=f"convnextv2_fast {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_CommandParser)
    for module in (env, check, explain, bench, convert, pretrain, finetune, predict, reconstruct):
        module.add_parser(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the arguments; None takes those of the process.
    Returns:
        The exit code: 0, 1 where something was found wrong, 2 for a bad command line, 130 after an interrupt, 141 where
        nobody reads the output to its end.
    """
    args = parser().parse_args(argv)
    if hasattr(sys.stdout, "reconfigure"):  # names of files and classes need not exist in its encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        wanted = os.environ.get(dispatch.ENVIRONMENT) or "auto"
        if wanted not in dispatch.NAMES and args.command != "env":  # env shows the variable, whatever is in it
            raise CommandError(f"{dispatch.ENVIRONMENT} must be one of {', '.join(dispatch.NAMES)}, got {wanted!r}")
        code = args.run(args)
        sys.stdout.flush()
        return code
    except (CommandError, TrainingError, UnsupportedInputError) as error:
        print(f"{PROG} {args.command}: error: {error}", file=sys.stderr)
        return BAD_USE
    except KeyboardInterrupt:
        print(f"{PROG} {args.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as head, has seen enough; Python must not flush to it when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CUT_OFF
