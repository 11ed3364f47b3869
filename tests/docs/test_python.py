"""Every Python block of the documentation runs, page by page from top to bottom, as a reader would type it."""

import sys

import pytest
import torch

import convnextv2_fast as cf
from convnextv2_fast.testing import randomise
from tests import peers
from tools.docs import pages

PAGES = {
    path.name: [fence for fence in pages.fences(path.read_text()) if fence.language == "python"]
    for path in pages.sources()
}
NEEDS = dict.fromkeys(("README.md", "index.md", "quickstart.md", "weights.md"), "timm") | {
    "accelerate.md": "timm transformers"
}


def reader():
    """What a page takes as given: a model, images, and the operands of an op."""
    return {
        "torch": torch,
        "cf": cf,
        "model": cf.convnextv2_atto(num_classes=10),
        "images": torch.rand(2, 3, 64, 64),
        "labels": torch.tensor([1, 2]),
        "image": torch.rand(1, 3, 64, 64),
        "photograph": torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8),
        "x": torch.randn(2, 7, 7, 40),
        "weight": torch.randn(40, 1, 7, 7),
        "gamma": torch.randn(40),
        "beta": torch.randn(40),
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with the files that pages name."""
    folder = tmp_path_factory.mktemp("reader")
    torch.manual_seed(0)
    state = randomise(cf.convnextv2_tiny(num_classes=1000)).state_dict()
    torch.save({"model": state}, folder / "convnextv2_tiny_1k_224_ema.pt")
    return folder


@pytest.mark.parametrize("page", [name for name, fences in PAGES.items() if fences])
def test_blocks_run(page, files, monkeypatch, capsys):
    for package in NEEDS.get(page, "").split():
        try:
            getattr(peers, package)()
        except ImportError:
            pytest.skip(f"{package} is not installed")
    monkeypatch.chdir(files)
    monkeypatch.syspath_prepend(str(pages.ROOT))
    namespace = reader()
    try:
        for fence in PAGES[page]:
            code = compile("\n" * (fence.line - 1) + fence.code, page, "exec")
            exec(code, namespace)
    finally:
        for name in [n for n in sys.modules if n.split(".")[0] == "examples"]:
            del sys.modules[name]


def test_accelerate_prints_what_the_page_shows(capsys):
    try:
        peers.timm()
    except ImportError:
        pytest.skip("timm is not installed")
    text = (pages.ROOT / "docs" / "accelerate.md").read_text()
    code, shown = list(pages.fences(text))[:2]
    assert shown.language == "text"
    exec(code.code, {})
    assert capsys.readouterr().out == shown.code


def test_pages_that_used_to_have_code_still_do():
    assert sum(len(fences) for fences in PAGES.values()) >= 18
