from collections.abc import Iterator

import pytest

from tests.native.isas import ISAS, on_isa


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set of this machine in turn."""
    with on_isa(request.param):
        yield request.param
