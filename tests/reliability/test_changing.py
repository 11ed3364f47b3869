"""Random changes of models between two answers; `changing.py` says what they are."""

import pytest

from tests.reliability import changing


@pytest.mark.parametrize("name", changing.NAMES)
def test_some_changes(name):
    changing.drive(name, 40, seed=1)


@pytest.mark.parametrize("name", changing.NAMES)
def test_ten_thousand_changes(name):
    changing.drive(name, 10_000 // len(changing.NAMES))


def test_every_way_is_tried():
    """A way that cannot be applied any more would go unnoticed: each changes something, sooner or later."""
    assert len(changing.WAYS) > 35
    run = changing.drive("ours", 300)
    assert {way.__name__ for way in changing.WAYS} <= set(run.log)
