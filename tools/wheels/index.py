"""The static index of PEP 503 from which pip installs: pages beside the files, one root per channel.

<out>/files/*                          every wheel and the sdist, once
<out>/simple/, <out>/simple/<project>/ the pure wheel and the sdist, what any plain index has
<out>/cu130/, <out>/cu130/<project>/   the wheels of one local version: pip install --index-url .../cu130
"""

from __future__ import annotations

import email
import hashlib
import re
import shutil
import tarfile
import zipfile
from html import escape
from pathlib import Path
from urllib.parse import quote

from .process import Failure

PLAIN = "simple"
PAGE = """<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
<meta name="pypi:repository-version" content="1.0">
<title>{title}</title>
</head>
<body>
{links}
</body>
</html>
"""


def normalise(name: str) -> str:
    """A project's name as PEP 503 writes it in addresses."""
    return re.sub(r"[-_.]+", "-", name).lower()


def metadata_of(path: Path) -> email.message.Message:
    """METADATA of a wheel, PKG-INFO of an sdist."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            (name,) = (n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
            return email.message_from_bytes(archive.read(name))
    with tarfile.open(path) as archive:
        (member,) = (m for m in archive.getmembers() if re.fullmatch(r"[^/]+/PKG-INFO", m.name))
        return email.message_from_bytes(archive.extractfile(member).read())  # type: ignore[union-attr]


def link(path: Path, metadata: email.message.Message) -> str:
    """The line of a project's page: address with the digest, and the Pythons that may install it."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    python = metadata.get("Requires-Python")
    attribute = f' data-requires-python="{escape(python)}"' if python else ""
    return f'<a href="../../files/{quote(path.name)}#sha256={digest}"{attribute}>{escape(path.name)}</a><br>'


def write_page(path: Path, title: str, links: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PAGE.format(title=escape(title), links="\n".join(links)), encoding="utf-8")


def write_index(folder: Path, out: Path) -> list[str]:
    """Writes the index of the wheels and sdists in `folder` to `out`, in place of what was there; returns its channels.

    The same files give the same bytes.

    Raises:
        Failure: there is nothing to serve, or `out` holds something that is no index.
    """
    files = sorted([*folder.glob("*.whl"), *folder.glob("*.tar.gz")])
    if not files:
        raise Failure(f"{folder} has neither wheels nor an sdist")
    if out.exists() and any(out.iterdir()) and not (out / PLAIN / "index.html").exists():
        raise Failure(f"{out} holds something else than an index: name another folder")
    shutil.rmtree(out, ignore_errors=True)
    (out / "files").mkdir(parents=True)
    pages: dict[str, dict[str, list[str]]] = {PLAIN: {}}
    for path in files:
        metadata = metadata_of(path)
        channel = str(metadata["Version"]).partition("+")[2] or PLAIN
        project = normalise(str(metadata["Name"]))
        pages.setdefault(channel, {}).setdefault(project, []).append(link(path, metadata))
        shutil.copyfile(path, out / "files" / path.name)
    for channel, projects in pages.items():
        roots = [f'<a href="{project}/">{project}</a><br>' for project in sorted(projects)]
        write_page(out / channel / "index.html", f"convnextv2_fast {channel}", roots)
        for project, links in projects.items():
            write_page(out / channel / project / "index.html", f"Links for {project}", links)
    return sorted(pages)
