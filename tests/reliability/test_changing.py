"""Random changes of models between two answers; `changing.py` says what they are."""

import pytest

from convnextv2_fast import dispatch
from tests.native.isas import needs_library
from tests.reliability import changing


@needs_library
@pytest.mark.parametrize("name", changing.NAMES)
def test_some_changes(name, monkeypatch):
    chosen, choose = [], dispatch.choose

    def noted(spec, backend=None):
        found = choose(spec, backend)
        chosen.append(found.backend)
        return found

    monkeypatch.setattr(dispatch, "choose", noted)
    changing.drive(name, 40, seed=1)
    assert chosen.count("cpu") > 100  # plain PyTorch was not compared with itself


@pytest.mark.parametrize("name", changing.NAMES)
def test_ten_thousand_changes(name):
    changing.drive(name, 10_000 // len(changing.NAMES))


def test_every_way_is_tried():
    """A way that cannot be applied any more would go unnoticed: each changes something, sooner or later."""
    assert len(changing.WAYS) > 35
    run = changing.drive("ours", 300)
    assert {way.__name__ for way in changing.WAYS} <= set(run.log)
