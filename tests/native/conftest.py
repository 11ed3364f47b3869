from collections.abc import Iterator

import pytest

from convnextv2_fast import library
from tests.native.isas import ISAS, on_isa


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set of this machine in turn."""
    with on_isa(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def more_threads_than_cpus() -> Iterator[None]:
    """Tests that set torch's number of threads get it, up to five, on a machine of any size."""
    library.assume_cpus(5)
    yield
    library.assume_cpus(0)
