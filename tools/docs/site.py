"""The hook of mkdocs: pages and pictures from outside docs/, and links that lead out of it.

What a page links to is one of: a file below docs/, which mkdocs checks itself; a file that the site carries as well
(CARRIED, and the results that a page names); another file of the repository, which has no address here and becomes
plain text. Anything else is a broken link, and ends the build.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import PurePosixPath
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from tools.docs import pages

CARRIED = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "README.md": "index.md"}
RESULTS, RESULT_FILES = "benchmarks/results", (".csv", ".png")
_ORIGIN = {site: source for source, site in CARRIED.items() if site != "index.md"}


def _mounted(path: str) -> str | None:
    """Where the site has a file of the repository that does not lie in docs/."""
    if path in CARRIED:
        return CARRIED[path]
    name = PurePosixPath(path)
    if str(name.parent) == RESULTS and name.suffix in RESULT_FILES:
        return f"results/{name.name}"
    return None


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Adds the carried pages, and the results: CSV files and plots."""
    for site, source in _ORIGIN.items():
        files.append(File.generated(config, site, content=(pages.ROOT / source).read_text(encoding="utf-8")))
    for path in sorted((pages.ROOT / RESULTS).iterdir()):
        if path.suffix in RESULT_FILES:
            files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Points links to where the site has their targets.

    Raises:
        PluginError: a target that is not in the repository.
    """
    here = page.file.src_uri
    origin = _ORIGIN.get(here, f"docs/{here}")

    def change(head: str, target: str) -> str | None:
        if "://" in target or target.startswith(("#", "mailto:")):
            return None
        name, hash_, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), name))
        if not (pages.ROOT / path).exists():
            raise PluginError(f"{origin}: no such file: {target}")
        if path.startswith("docs/"):
            site = path.removeprefix("docs/")
        elif (mounted := _mounted(path)) is not None:
            site = mounted
        else:
            return ""
        return posixpath.relpath(site, posixpath.dirname(here) or ".") + hash_ + anchor

    return _without_empty(pages.rewrite_links(markdown, change))


def _without_empty(markdown: str) -> str:
    """Links whose target is empty become their text."""
    return pages.EMPTY_LINK.sub(r"\1", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings mark names as Sphinx would; here the code font says enough."""
    return re.sub(r":(?:meth|class|func|data|mod|attr):(?=<code>)", "", html)
