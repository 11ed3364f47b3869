"""The static table of tiles: complete, and what a width outside it takes."""

import pytest
import torch

pytest.importorskip("triton")
from convnextv2_fast.ops._mlp_grn.triton_tiles import WIDEST_FUSED
from convnextv2_fast.ops._triton import chip as chips
from convnextv2_fast.ops._triton import tiles

from . import choose
from .resources import FAMILIES

H100, BF16 = chips.KNOWN["sm_90"], torch.bfloat16


def test_the_table_has_every_kernel_family_dtype_and_width():
    found = {(*key, c) for key, widths in tiles.table().items() for c in widths}
    assert found == set(choose.keys(FAMILIES))


def test_entries_are_candidates():
    """Nobody wrote a line by hand that the tool would not."""
    for (family, kernel, kind), widths in tiles.table().items():
        for c, sizes in widths.items():
            assert sizes in set(choose.candidates(kernel, family, c, kind == "float32")), (family, kernel, kind, c)


def test_other_widths_take_the_next_wider_entry():
    widths = tiles.table()["sm_90", "mlp_grn hidden", "half"]
    assert tiles.lookup("mlp_grn hidden", H100, 97, BF16) == widths[128]
    assert tiles.lookup("mlp_grn hidden", H100, 1, BF16) == widths[min(widths)]
    assert tiles.lookup("mlp_grn hidden", H100, 10**6, torch.float16) == widths[max(widths)]
    assert max(tiles.table()["sm_90", "mlp_grn fused", "half"]) == WIDEST_FUSED


def test_force():
    with tiles.force("mlp_grn hidden", (1, 2, 3, 4, 5, 0)):
        assert tiles.lookup("mlp_grn hidden", H100, 96, BF16) == (1, 2, 3, 4, 5, 0)
    assert tiles.lookup("mlp_grn hidden", H100, 96, BF16)[0] >= 16
