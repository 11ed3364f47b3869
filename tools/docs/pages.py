"""The pages: which there are, their generated parts, their fenced code, their links."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_GENERATED = re.compile(r"<!-- generated: (?P<name>[\w-]+) -->\n(?P<body>.*?)<!-- end -->\n", re.DOTALL)
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
)
EMPTY_LINK = re.compile(r"\[([^\]]*)\]\(\)")
_LINK = re.compile(r"(?P<head>!?\[[^\]]*\]\()(?P<target>[^)\s]+)(?P<tail>\))")


def sources() -> list[Path]:
    """Every page a reader may come to."""
    return [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *sorted((ROOT / "docs").glob("*.md")),
    ]


def renew(text: str, blocks: Mapping[str, Callable[[], str]]) -> str:
    """The page with every `<!-- generated: NAME -->` ... `<!-- end -->` filled anew.

    Raises:
        KeyError: there is no block of this name.
    """
    return _GENERATED.sub(
        lambda m: f"<!-- generated: {m['name']} -->\n{blocks[m['name']]().rstrip()}\n<!-- end -->\n", text
    )


@dataclass(frozen=True)
class Fence:
    """A fenced block: its language ("" if none), its code without the fence, and the line it begins on."""

    language: str
    code: str
    line: int


def fences(text: str) -> Iterator[Fence]:
    """The fenced blocks of a page, in order."""
    for m in _FENCE.finditer(text):
        code = "".join(line.removeprefix(m["indent"]) for line in m["code"].splitlines(keepends=True))
        yield Fence(m["language"], code, text.count("\n", 0, m.start()) + 2)


def rewrite_links(text: str, change: Callable[[str, str], str | None]) -> str:
    """The page with each link outside fences replaced: `change(head, target)` gives the new target, None to keep it."""

    def one(m: re.Match[str]) -> str:
        target = change(m["head"], m["target"])
        return m[0] if target is None else f"{m['head']}{target}{m['tail']}"

    parts, last = [], 0
    for fence in _FENCE.finditer(text):
        parts += [_LINK.sub(one, text[last : fence.start()]), fence[0]]
        last = fence.end()
    return "".join([*parts, _LINK.sub(one, text[last:])])


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and mkdocs make it from plain text."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def anchors(text: str) -> set[str]:
    """Anchors of the headings of a page."""
    without = _FENCE.sub("", text)
    return {slug(m[1]) for m in re.finditer(r"^#+ (.*)$", without, re.MULTILINE)}
