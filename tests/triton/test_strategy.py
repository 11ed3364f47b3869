"""The cost model of mlp_grn and what it reads off a device."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from convnextv2_fast.ops._mlp_grn import strategy
from convnextv2_fast.ops._mlp_grn.triton_tiles import WIDEST_FUSED, pieces, tiles
from convnextv2_fast.ops._triton import chip

H100, BF16 = chip.KNOWN["sm_90"], torch.bfloat16


def test_narrow_layers_recompute_and_wide_ones_do_not():
    no_cache = dataclasses.replace(H100, l2=1)  # rules out chunks
    rows = 128 * 3136
    assert strategy.choose(no_cache, rows, 96, BF16, 3136) == "recompute"
    assert strategy.choose(no_cache, rows, 1024, BF16, 3136) == "materialize"
    assert strategy.choose(H100, rows, 96, BF16, 0) in ("materialize", "recompute")  # groups of different sizes


def test_a_strategy_that_cannot_run_is_not_predicted():
    times = strategy.seconds(H100, 10_000, WIDEST_FUSED + 1, BF16, 0)
    assert set(times) == {"materialize"}
    assert "recompute" not in strategy.seconds(H100, 10_000, 96, BF16, 100, c_out=48)
    assert "chunked" not in strategy.seconds(dataclasses.replace(H100, l2=1), 10_000, 96, BF16, 100)


def test_hidden_gradients_are_saved_where_products_cost_more_than_traffic():
    assert not strategy.save_hidden(H100, 96, BF16) and strategy.save_hidden(H100, 1024, BF16)


@pytest.mark.parametrize("c", range(1, WIDEST_FUSED + 1))
def test_pieces_cover_the_width(c):
    parts = pieces(c)
    assert sum(parts) >= c and all(p == 0 or (p >= 16 and p & (p - 1) == 0) for p in parts)
    assert sum(parts) < 1.5 * max(c, 32)


def test_every_family_has_tiles_for_every_width():
    for known in chip.KNOWN.values():
        for kernel in ("hidden", "output", "backward", "fused"):
            for c in (1, 40, 41, 384):
                for dtype in (torch.float32, torch.float16, BF16):
                    assert tiles(kernel, known, c, dtype).rows >= 16


@pytest.mark.parametrize(
    ("capability", "family"),
    [
        ((8, 0), "sm_80"),
        ((8, 6), "sm_89"),
        ((8, 7), "sm_80"),
        ((8, 9), "sm_89"),
        ((9, 0), "sm_90"),
        ((10, 3), "sm_100"),
        ((12, 0), "sm_120"),
    ],
)
def test_families(capability, family):
    assert chip.family(capability) == family


def test_figures_are_read_off_the_device(monkeypatch):
    properties = SimpleNamespace(
        name="NVIDIA H100 80GB HBM3",
        major=9,
        minor=0,
        multi_processor_count=132,
        clock_rate=1_980_000,
        memory_clock_rate=2_619_000,
        memory_bus_width=5120,
        L2_cache_size=52_428_800,
        shared_memory_per_block_optin=232_448,
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.version, "hip", None)
    read = chip._read.__wrapped__(0)
    assert read.family == "sm_90" and read.l2 == 52_428_800 and read.shared == 232_448
    assert read.bandwidth == pytest.approx(3.35e12, rel=0.01)
    assert read.flops == pytest.approx(0.8 * 1070e12, rel=0.01)
    assert read.vector_flops == pytest.approx(67e12, rel=0.01)
    bare = SimpleNamespace(name="X", major=9, minor=0, multi_processor_count=132)  # an older torch says less
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: bare)
    assert chip._read.__wrapped__(0).bandwidth == H100.bandwidth
