"""The choice of tiles by timing: off by default, kept on disk, read back, never half written."""

from dataclasses import dataclass

import pytest

pytest.importorskip("triton")
from convnextv2_fast.ops._triton import autotune, chip

H100 = chip.KNOWN["sm_90"]


@dataclass(frozen=True)
class Tile:
    rows: int
    warps: int


SLOW, FAST = Tile(128, 8), Tile(64, 4)


@pytest.fixture
def timed(monkeypatch, tmp_path):
    """Times a tile as many milliseconds as it has rows; records what was timed."""
    monkeypatch.setenv(autotune.CACHE, str(tmp_path))
    monkeypatch.setattr(autotune, "_loaded", {})
    seen = []
    monkeypatch.setattr(autotune, "measure", lambda call: (call(), float(seen[-1].rows))[1])
    return seen


def pick(seen):
    return autotune.pick("fused 96", H100, SLOW, lambda: [FAST], seen.append)


def test_off_by_default(timed, monkeypatch, tmp_path):
    monkeypatch.delenv(autotune.ENVIRONMENT, raising=False)
    assert pick(timed) == SLOW and not timed and not list(tmp_path.iterdir())


def test_the_fastest_is_kept_on_disk(timed, monkeypatch, tmp_path):
    monkeypatch.setenv(autotune.ENVIRONMENT, "1")
    assert pick(timed) == FAST and timed == [SLOW, FAST]
    (file,) = tmp_path.iterdir()
    assert file == autotune.path(H100) and file.name.startswith("h100-triton-")
    monkeypatch.setattr(autotune, "_loaded", {})  # another process
    assert pick(timed) == FAST and len(timed) == 2
    file.write_text("{ not json")
    monkeypatch.setattr(autotune, "_loaded", {})
    assert pick(timed) == FAST and len(timed) == 4


def test_a_tile_that_does_not_fit_is_passed_over(timed, monkeypatch):
    import triton

    monkeypatch.setenv(autotune.ENVIRONMENT, "1")

    def run(tile):
        if tile == FAST:
            raise triton.runtime.errors.OutOfResources(1, 0, "shared memory")
        timed.append(tile)

    assert autotune.pick("fused 96", H100, SLOW, lambda: [FAST], run) == SLOW
