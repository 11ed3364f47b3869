"""For every test: a fixed seed, and poison in uninitialised memory, so that an element nobody wrote shows.

`--shard` runs a part of the suite, for the GPU report."""

from collections.abc import Iterator

import pytest
import torch

from tests import thorough

# On a machine that others use, ATen's depthwise convolutions are up to 100 times slower with two threads than with one.
# What depends on the number of threads sets its own.
torch.set_num_threads(1)
# On a GPU torch's convolutions round float32 to TF32 unless told otherwise.
torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    """In deterministic mode torch fills what torch.empty returns with NaN, from C++ too."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Before a module is imported too: tensors at its top level are the same in every process and every run."""
    torch.manual_seed(0)


DEVICE_LOST = 86


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shard", metavar="I/N", help="only the tests whose number is I modulo N; failures shown at once")
    parser.addoption(
        "--pairs",
        action="store_true",
        help="emulated and interpreted kernels: pairs of parameters, not all combinations",
    )
    parser.addoption("--after", metavar="K", type=int, default=0, help="of those, not the first K")


@pytest.hookimpl(tryfirst=True)  # before -m looks at marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    thorough.mark(items)
    shard = config.getoption("--shard")
    if shard:
        first, step = map(int, shard.split("/"))
        first += step * config.getoption("--after")
        kept = items[first::step]
        config.hook.pytest_deselected(items=list(set(items) - set(kept)))
        items[:] = kept


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--shard"):
        config.pluginmanager.register(OfAShard())


class OfAShard:
    """A shard may be stopped, and a broken CUDA context fails every test behind the one that broke it."""

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            print(f"\n{report.longreprtext}\n", flush=True)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self) -> None:
        if torch.cuda.is_initialized():
            try:
                torch.cuda.synchronize()
            except RuntimeError as error:
                pytest.exit(f"the device is lost: {error}", returncode=DEVICE_LOST)
