"""Where in a state dict the network lies: what stands before its names, found by matching the names of its blocks.

Modules that hold a network put their own name for it before its names: `module.` of DataParallel, `net.` or `model.` of
a training loop, `backbone.bottom_up.` of a detector. Any such prefix is found, and removed. Two networks in one state
dict, a student and its teacher, are told apart by `prefix`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from ..errors import CheckpointError
from .formats import FORMATS, Entry, Format, group_of

# Components that wrappers put into names (torch.compile, FSDP, activation checkpointing); never part of a model's own.
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# Formats put their prefix on the body only, so these may stand beside it: `head.fc` beside `backbone.stages`.
_BESIDE = ("head.", "classifier.", "decoder.", "proj.", "pred.", "mask_token")
_SHOWN = 8  # names in an error about a dict that is not recognised


@dataclass
class Place:
    """Where a network was found."""

    format: Format
    prefix: str | None  # of its body, without the wrappers' components; None: it has none
    names: dict[str, tuple[Entry, str]]  # name in the state dict -> its entry and canonical name

    def canonical(self, name: str) -> str | None:
        """Of a name that was not among those looked at; None where this network has none of that name."""
        short, body = _short(name), self.prefix
        if body is None:
            body = next(iter(_blocks([short], [self.format], kinds=None)), "")
        match = _match(self.format, body, short)
        return None if match is None else match[1]


def locate(names: Sequence[str], source: str, what: str, prefix: str | None = None, module: bool = False) -> Place:
    """The network that all `names` belong to.

    Args:
        names: of a state dict.
        source: the name of its format, or "auto".
        what: how errors call the state dict.
        prefix: those names alone that begin with it, wherever else there are networks. None: all.
        module: they are of a module in memory, of which a part can be passed instead; errors advise it.
    Raises:
        CheckpointError: there is none, or several, or a name has no place in it.
    """
    formats = list(FORMATS.values()) if source == "auto" else [FORMATS[source]]
    short = {n: _short(n) for n in names}
    start = ""
    if prefix:
        start = _short(prefix.removesuffix("."))
        start += "." if start else ""
        short = {n: s.removeprefix(start) for n, s in short.items() if s.startswith(start)}
        if not short:
            held = _blocks([_short(n) for n in names], formats)
            there = f"a ConvNeXt V2 lies under {_listed('', held, formats)}" if held else f"it holds {some(names)}"
            raise CheckpointError(f"{what}: no name begins with the prefix {prefix!r}; {there}")
    blocks = _blocks(short.values(), formats)
    if not blocks and source != "auto":  # a part of a network
        blocks = _blocks(short.values(), formats, kinds=None)
    body = max(blocks, key=lambda p: len(blocks[p]), default="")
    twins = [p for p in blocks if p != body and blocks[p] & blocks[body]]
    if twins:
        roots = {p: _root(p, formats) for p in blocks}
        own = [p for p, root in roots.items() if not root]
        if prefix is None or len(own) != 1:
            listed = _listed(start, blocks, formats)
            first = min((root for root in roots.values() if root), default="")
            advice = f"pass one of them: {_part(start + first)}" if module else "prefix= takes one of them"
            raise CheckpointError(f"{what} holds {len(blocks)} networks, under {listed}; {advice}")
        body = own[0]
        others = tuple(p for p in roots.values() if p)
        short = {n: s for n, s in short.items() if not s.startswith(others)}
    for fmt in formats:
        found = {n: match for n, s in short.items() if (match := _match(fmt, body, s)) is not None}
        if len(found) == len(short) and (blocks or source != "auto"):
            return Place(fmt, start + body if blocks else None, found)
    why = _unrecognised(short, formats, body, bool(blocks), module)
    raise CheckpointError(f"{what} {why} (supported formats: {', '.join(FORMATS)})")


def holds_blocks(names: Collection[str]) -> bool:
    """Whether a block of a ConvNeXt, in any format and under any prefix, is among them."""
    return bool(_blocks([_short(n) for n in names], list(FORMATS.values())))


def _short(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


@cache
def _ends(format_name: str, kinds: frozenset[str] | None) -> list[re.Pattern[str]]:
    """Patterns for the ends of names of the body, of those kinds of modules; None: of all."""
    return [
        re.compile(rf"(?:^|(?<=\.)){pattern.pattern}\Z")
        for pattern, entry in FORMATS[format_name].readable
        if group_of(entry.canonical) == "body" and (kinds is None or entry.kind in kinds)
    ]


def _blocks(
    names: Collection[str], formats: Sequence[Format], kinds: frozenset[str] | None = frozenset({"depthwise"})
) -> dict[str, set[str]]:
    """What stands before the names of a body: prefix -> the canonical names there."""
    found: dict[str, set[str]] = {}
    for name in names:
        for fmt in formats:
            for pattern in _ends(fmt.name, kinds):
                if end := pattern.search(name):
                    match = fmt.match(end[0])
                    assert match is not None  # it is one of that format's patterns
                    found.setdefault(name[: end.start()], set()).add(match[1])
    return found


def _root(prefix: str, formats: Sequence[Format]) -> str:
    """The prefix of a network whose body lies under `prefix`: some formats have one of their own."""
    for own in {fmt.prefix for fmt in formats if fmt.prefix}:
        if prefix == own or prefix.endswith(f".{own}"):
            return prefix.removesuffix(own)
    return prefix


def _match(fmt: Format, body: str, name: str) -> tuple[Entry, str] | None:
    if name.startswith(body):
        return fmt.match(name.removeprefix(body))
    for outer in _outer(body):
        if name.startswith(outer) and name.removeprefix(outer).startswith(_BESIDE):
            return fmt.match(name.removeprefix(outer))
    return None


def _outer(prefix: str) -> Iterator[str]:
    """`a.b.c.` to `a.b.`, `a.` and the empty one."""
    parts = prefix.split(".")[:-1]
    for n in range(len(parts) - 1, -1, -1):
        yield "".join(f"{part}." for part in parts[:n])


def _part(prefix: str) -> str:
    """How a program writes the module whose tensors have this prefix."""
    name = prefix.removesuffix(".")
    if all(part.isidentifier() for part in name.split(".")):
        return f"model.{name}"
    return f"model.get_submodule({name!r})"


def _unrecognised(names: Mapping[str, str], formats: Sequence[Format], body: str, blocks: bool, module: bool) -> str:
    """What to say of names that no format has a place for: the few that are foreign, or that all are.

    `names` are those in the state dict, and what is looked at of them."""
    few, closest = list(names), formats[0]
    for fmt in formats:
        unknown = [n for n, s in names.items() if _match(fmt, body, s) is None]
        if 0 < len(unknown) < len(few):
            few, closest = unknown, fmt
    if not blocks and 2 * len(few) > len(names):
        wanted = f"{formats[0].name} state dict" if len(formats) == 1 else "ConvNeXt V2 state dict"
        return f"is no {wanted}; it holds {some(list(names))}"
    text = f"looks like {closest.name}, but ConvNeXt V2 has no place for {some(few)}"
    if any(n.endswith(".gamma") and not n.endswith("grn.gamma") for n in few):
        return f"{text}; layer scale (`gamma` beside the convolution) belongs to ConvNeXt V1, another network"
    root = _root(body, formats)
    if module:
        return f"{text}; pass the part that is a ConvNeXt V2: {_part(root or body)}" if body else text
    if root and not any(names[n].startswith(root) for n in few):
        return f"{text}; prefix={root!r} takes what lies there alone, `ignore` leaves tensors out by prefix"
    return f"{text}; `ignore` leaves tensors out by prefix"


def _listed(start: str, bodies: Collection[str], formats: Sequence[Format]) -> str:
    """What `prefix` may be to take one of the networks whose bodies lie there."""
    roots = {_root(body, formats) for body in bodies}
    prefixes = sorted(start + p for p in (roots if len(roots) == len(bodies) else bodies))
    return ", ".join(map(repr, prefixes[:_SHOWN])) + (", ..." if len(prefixes) > _SHOWN else "")


def some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest
