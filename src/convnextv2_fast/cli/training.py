"""The options of `pretrain` and `finetune`: the fields of their configurations; and upstream's that are refused."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from ..train.config import TrainConfig
from ..train.options import BOOLEAN, Option, declared
from .arguments import CommandError, checked

REFUSED = {
    "dist_on_itp": "is for a cluster of Microsoft's; start the processes with torchrun",
    "dist_url": "is set by torchrun (MASTER_ADDR and MASTER_PORT)",
    "world_size": "is set by torchrun: --nproc_per_node times --nnodes",
    "local_rank": "is set by torchrun (LOCAL_RANK)",
}


def add_options(parser: argparse.ArgumentParser, config: type[TrainConfig], refused: Mapping[str, str]) -> None:
    """Adds every field of a configuration as an option, and the options of upstream's that are refused.

    An option that is not given gets no attribute in the namespace: defaults are the configuration's alone.
    """
    groups: dict[str, argparse._ArgumentGroup] = {}
    defined = {f.name: f for f in fields(config)}
    for name, option in declared(fields(config)).items():
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        groups[option.group].add_argument(f"--{name}", **_keywords(option, defined[name]))
    hidden: dict[str, Any] = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
    parser.add_argument("--no_pin_mem", dest="pin_mem", action="store_const", const=False, **hidden)
    for name in {**REFUSED, **refused}:
        flags = [f"--{name}", *(["--local-rank"] if name == "local_rank" else [])]
        parser.add_argument(*flags, nargs="?", const="true", **hidden)


def _keywords(option: Option, field: Field[Any]) -> dict[str, Any]:
    """What argparse's add_argument is told of an option."""
    kind = option.kind
    found: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(option.help, field.default)}
    if field.default is MISSING and field.default_factory is MISSING:
        found["required"] = True
    if kind is BOOLEAN:
        found |= {"nargs": "?", "const": True}
    elif option.several is not None:
        found["nargs"] = option.several
    if kind.choices:
        return found | {"type": type(kind.choices[0]), "choices": kind.choices}
    return found | {"type": checked(kind), "metavar": kind.metavar}


def _help(text: str, default: Any) -> str:
    """The text, and the default where it is a value that the text does not tell."""
    if not isinstance(default, bool | int | float | str) or default == "" or "default" in text:
        return text
    shown = f"{default:g}" if isinstance(default, float) else str(default)
    shown = shown.lower() if isinstance(default, bool) else shown
    return f"{text} (default: {shown})" if text else f"default: {shown}"


def given(args: argparse.Namespace, config: type[TrainConfig], refused: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a configuration that a command line gives.

    Raises:
        CommandError: it gives an option of upstream's that cannot be honoured.
    """
    for name, why in {**REFUSED, **refused}.items():
        value = getattr(args, name, None)
        if value is not None and (name, value) != ("dist_url", "env://"):
            raise CommandError(f"--{name} {why}")
    return {f.name: getattr(args, f.name) for f in fields(config) if hasattr(args, f.name)}
