"""The pages: links, generated parts, and the site that mkdocs makes of them."""

import os
import re
import subprocess
import sys

import pytest

from convnextv2_fast import environment
from tools.docs import pages
from tools.docs.blocks import BLOCKS

SOURCES = pages.sources()


@pytest.mark.parametrize("path", SOURCES, ids=[path.name for path in SOURCES])
def test_links_lead_somewhere(path):
    def check(head, target):
        if "://" in target:
            return
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in pages.anchors(file.read_text()), f"{path.name}: {target}"

    pages.rewrite_links(path.read_text(), check)


@pytest.mark.parametrize("path", SOURCES, ids=[path.name for path in SOURCES])
def test_generated_parts_are_current(path):
    text = path.read_text()
    assert pages.renew(text, BLOCKS) == text, "run: python -m tools.docs"
    assert text.count("<!-- generated: ") == len(re.findall(pages._GENERATED, text))


def test_every_generated_part_is_used():
    used = {name for path in SOURCES for name in re.findall(r"<!-- generated: ([\w-]+) -->", path.read_text())}
    assert used == set(BLOCKS)


def test_a_part_that_is_out_of_date_is_found(tmp_path):
    text = "a\n<!-- generated: n -->\nold\n<!-- end -->\nb\n"
    assert pages.renew(text, {"n": lambda: "new\n"}) == text.replace("old", "new")


def test_links_in_code_are_left_alone():
    text = "[a](b.md)\n```python\nx[0](y)\n```\n[c](d.md#e)\n"
    assert pages.rewrite_links(text, lambda head, target: "z") == "[a](z)\n```python\nx[0](y)\n```\n[c](z)\n"


def test_environment_variables_are_those_of_the_sources():
    found = set()
    for folder, kinds in (
        ("src", ("*.py",)),
        ("csrc", ("*.cpp", "*.cu", "*.h", "*.cuh")),
        (".", ("setup.py",)),
    ):
        for kind in kinds:
            for file in (pages.ROOT / folder).glob(kind if folder == "." else f"**/{kind}"):
                if file.name != "environment.py":
                    found |= set(re.findall(rf"\b{environment.PREFIX}[A-Z][A-Z_]*", file.read_text(encoding="utf-8")))
    assert found == {variable.name for variable in environment.VARIABLES}


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environ = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=pages.ROOT, env=environ, capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "WARNING" not in said, said
    names = {path.name for path in (tmp_path / "site").glob("*.html")}
    assert {path.with_suffix(".html").name.lower() for path in SOURCES} - {"readme.html"} <= names
    api = (tmp_path / "site" / "api.html").read_text()
    assert "mlp_grn" in api and "Raises" in api
    figures = (tmp_path / "site" / "performance.html").read_text()
    for kind, name in (("href", r"[\w-]+\.csv"), ("src", r"[\w-]+-inference\.png")):
        found = re.search(f'{kind}="(results/{name})"', figures)
        assert found and (tmp_path / "site" / found[1]).exists()
