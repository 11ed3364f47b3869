"""For every test: a fixed seed, and poison in uninitialised memory, so that an element nobody wrote shows."""

from collections.abc import Iterator

import pytest
import torch

# On a machine that others use, ATen's depthwise convolutions are up to 100 times slower with two threads than with one.
# What depends on the number of threads sets its own.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    """In deterministic mode torch fills what torch.empty returns with NaN, from C++ too."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shard", metavar="I/N", help="only the tests whose number is I modulo N")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    shard = config.getoption("--shard")
    if shard:
        first, step = map(int, shard.split("/"))
        config.hook.pytest_deselected(items=[item for i, item in enumerate(items) if i % step != first])
        items[:] = items[first::step]
