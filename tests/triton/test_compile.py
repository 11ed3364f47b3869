"""The launches of all eight models compile for every family of chips, without a spill, on its matrix instructions."""

import pytest

from convnextv2_fast import library

pytestmark = [
    pytest.mark.triton,
    pytest.mark.slow,
    pytest.mark.skipif(library.triton_why_not() is not None, reason=str(library.triton_why_not())),
]


@pytest.fixture(scope="module")
def found():
    from . import resources

    return resources.compiled()


def test_no_spills_within_shared_memory_on_matrix_units(found):
    from . import resources

    bad = resources.faults(found)
    assert not bad, "\n".join(bad)


def test_the_resource_table_is_current(found):
    """Exact on the version that wrote it: python -m tests.triton.resources --write."""
    import triton

    from . import resources

    version, rows = resources.read()
    assert set(rows) == set(found), "the launches changed: write the table anew"
    if version == triton.__version__:
        assert rows == found
