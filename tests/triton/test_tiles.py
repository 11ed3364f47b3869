"""Tiles: the rule and its exceptions give what was chosen and compiled, and what another width takes."""

import hashlib
import itertools

import pytest
import torch

pytest.importorskip("triton")
from convnextv2_fast.ops._mlp_grn.triton_tiles import WIDEST_FUSED
from convnextv2_fast.ops._triton import chip as chips
from convnextv2_fast.ops._triton import tiles
from tools.kernels import tiles as tool
from tools.kernels.resources import FAMILIES

H100, BF16 = chips.KNOWN["sm_90"], torch.bfloat16
# Of the answers for every family, kernel, dtype and width from 1 to 3000, made by the test below.
ANSWERS = "c51b1747fe641c233cede458682b5f0c935328d7b765a7299a787e61e2ad826f"


def test_every_answer_is_the_compiled_one():
    """A tile that is chosen anew changes the digest: then store the new one."""
    known = hashlib.sha256()
    kernels = [f"dwconv {each}" for each in ("norm", "params", "plain", "train")]
    products = [f"mlp_grn {each}" for each in ("backward", "fused", "hidden", "output")]
    for family, chip in chips.KNOWN.items():
        for kind, dtype in (("float32", torch.float32), ("half", BF16)):
            persistent = [f"{kernel} tma" for kernel in products if chip.tma and kind == "half"]
            for kernel in (*kernels, *products, *persistent):
                answers = [tiles.lookup(kernel, chip, c, dtype) for c in range(1, 3001)]
                runs = [(sizes, len(list(widths))) for sizes, widths in itertools.groupby(answers)]
                known.update(f"{family} {kernel} {kind} {runs}\n".encode())
    assert known.hexdigest() == ANSWERS


def test_the_exceptions_are_of_kernels_families_dtypes_and_widths_that_exist():
    assert set(tiles.exceptions()) <= set(tool.keys(FAMILIES))


def test_every_tile_is_a_candidate():
    """Nobody wrote a line by hand that the tool would not; the rule's tile is the first, and no exception to itself."""
    for family, kernel, kind, c in tool.keys(FAMILIES):
        tried = list(tool.candidates(kernel, family, c, kind == "float32"))
        exception = tiles.exceptions().get((family, kernel, kind, c))
        assert tiles.rule(kernel, family, c, kind == "float32") == tried[0] != exception
        assert exception is None or exception in tried, (family, kernel, kind, c)


def test_the_tool_writes_the_table_that_is_there(tmp_path, monkeypatch):
    before, found = tiles.EXCEPTIONS.read_text(), dict(tiles.exceptions())
    everything = {
        key: found.get(key) or next(tool.candidates(key[1], key[0], key[3], key[2] == "float32"))
        for key in tool.keys(FAMILIES)
    }
    monkeypatch.setattr(tiles, "EXCEPTIONS", tmp_path / "tiles.tsv")
    tool.write(everything)
    assert tiles.EXCEPTIONS.read_text() == before


def test_other_widths_take_the_next_wider_entry():
    def sizes(c, kernel="hidden"):
        return tiles.lookup(f"mlp_grn {kernel}", H100, c, BF16)

    assert sizes(97) == sizes(128) != sizes(96)
    assert sizes(1) == sizes(min(tiles.WIDTHS))
    assert tiles.lookup("mlp_grn hidden", H100, 10**6, torch.float16) == sizes(max(tiles.WIDTHS))
    assert tiles.WIDEST["mlp_grn fused"] == WIDEST_FUSED and sizes(WIDEST_FUSED + 1, "fused") == sizes(384, "fused")


def test_force():
    with tiles.force("mlp_grn hidden", (1, 2, 3, 4, 5, 0)):
        assert tiles.lookup("mlp_grn hidden", H100, 96, BF16) == (1, 2, 3, 4, 5, 0)
    assert tiles.lookup("mlp_grn hidden", H100, 96, BF16)[0] >= 16
