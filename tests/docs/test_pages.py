"""The pages: links, generated parts, and the site that mkdocs makes of them."""

import os
import re
import subprocess
import sys

import pytest

from convnextv2_fast import environment
from tests import peers
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
        ("tools/native", ("*.py",)),
    ):
        for kind in kinds:
            for file in (pages.ROOT / folder).glob(kind if folder == "." else f"**/{kind}"):
                if file.name != "environment.py":
                    found |= set(re.findall(rf"\b{environment.PREFIX}[A-Z][A-Z_]*", file.read_text(encoding="utf-8")))
    assert found == {variable.name for variable in environment.VARIABLES}


def _table(text, first):
    """The cells of the lines of the table whose first column has this title."""
    found = re.search(rf"^\| {first} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in found[1].splitlines()]


def test_the_weights_are_those_that_timm_knows():
    """Names, sizes and addresses of docs/weights.md beside timm's list of pretrained models."""
    try:
        timm = peers.timm()
    except ImportError:
        pytest.skip("timm is not installed")
    text = (pages.ROOT / "docs" / "weights.md").read_text()
    eight = "atto, femto, pico, nano, tiny, base, large, huge"

    def named(first):
        for pattern, _, pixels, sizes in _table(text, first):
            for size in sizes.replace("all eight", eight).split(", "):
                yield pattern, size, int(pixels)

    known = {name: timm.get_pretrained_cfg(name) for name in timm.list_pretrained("convnextv2_*")}
    tags = {f"convnextv2_{size}.{tag}": pixels for tag, size, pixels in named("tag")}
    assert tags == {name: cfg.input_size[-1] for name, cfg in known.items()}
    base = re.search(r"https://dl\.fbaipublicfiles\.com/[\w/]+", text)[0]
    files = {base + pattern.replace("SIZE", size) for pattern, size, _ in named("file")}
    assert files == {cfg.url for cfg in known.values()}


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
    for kind, name in (("href", r"[\w-]+\.csv"), ("src", r"[\w-]+-home\.png")):
        found = re.search(f'{kind}="(results/{name})"', figures)
        assert found and (tmp_path / "site" / found[1]).exists()
