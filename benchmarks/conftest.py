"""pytest-benchmark, with rounds that really interleave.

pytest-benchmark times one test after another, so a slow minute of the machine would fall on one provider alone. Here
the tests of a group (one case, one test for each provider) share one measurement: the first of them to run builds,
checks and times all selected providers round-robin; each test then hands its own recorded rounds to pytest-benchmark,
through a clock that replays them. Its tables, columns, comparison and JSON work as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from .reports import machine
from .suite import providers
from .suite.cases import Case, Setting
from .suite.measure import Effort, Outcome, measure

CaseList = Callable[[Setting], list[Case]]


class ReplayClock:
    """A timer for pytest-benchmark: every second reading is a recorded duration, the others are zero."""

    def __init__(self) -> None:
        self._readings: Iterator[float] = iter(())

    def load(self, seconds: list[float]) -> None:
        """The durations of the next rounds."""
        self._readings = iter([reading for spent in seconds for reading in (0.0, spent)])

    def __repr__(self) -> str:
        return "interleaved rounds, replayed"

    def __call__(self) -> float:
        return next(self._readings)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("convnextv2_fast")
    group.addoption(
        "--smoke", action="store_true", help="tiny shapes, one round, no compilation but one: only that it runs"
    )
    group.addoption("--device", choices=("cpu", "cuda"), help="default: cuda where torch sees a device")
    group.addoption(
        "--precision", choices=("float32", "bfloat16", "float16", "amp"), help="default: float32, on cuda amp"
    )
    group.addoption("--rounds", type=int, default=15, help="rounds of each group (default 15)")
    group.addoption("--group-seconds", type=float, default=20.0, help="no new round of a group after this")
    group.addoption("--graph", action="store_true", help="on cuda: forward passes as CUDA graph replay")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cases(of): function from a Setting to the cases of this benchmark")
    if config.getoption("--smoke"):
        torch.set_num_threads(
            1
        )  # tiny shapes gain nothing from more, and on a busy machine threads wait for each other


def setting_of(config: pytest.Config) -> Setting:
    """Device and precision asked for on the command line."""
    device = config.getoption("--device") or ("cuda" if torch.cuda.is_available() else "cpu")
    precision = config.getoption("--precision") or ("amp" if device == "cuda" else "float32")
    return Setting(device, precision, bool(config.getoption("--smoke")))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("cases")
    if marker is None:
        return
    cases: list[Case] = marker.kwargs["of"](setting_of(metafunc.config))
    pairs = [(case, name) for case in cases for name in providers.names(case)]
    metafunc.parametrize(("case", "provider"), pairs, ids=[f"{case.name}-{name}" for case, name in pairs])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("cases"):
            item.add_marker(pytest.mark.benchmark(timer=ReplayClock()))


class Groups:
    """The measurements of this session, made when first asked for."""

    def __init__(self, effort: Effort, selected: dict[str, list[str]]) -> None:
        self.effort, self.selected = effort, selected
        self._measured: dict[str, dict[str, Outcome]] = {}

    def outcome(self, case: Case, provider: str) -> Outcome:
        """What became of a provider; measures the whole group at the first call."""
        if case.name not in self._measured:
            self._measured[case.name] = measure(case, self.selected[case.name], self.effort)
        return self._measured[case.name][provider]


@pytest.fixture(scope="session")
def groups(request: pytest.FixtureRequest) -> Groups:
    """The session's groups, with the providers that the command line selected."""
    config = request.config
    effort = Effort.smoke()
    if not config.getoption("--smoke"):
        limits = {"rounds": config.getoption("--rounds"), "max_seconds": config.getoption("--group-seconds")}
        effort = Effort(**limits, graph=config.getoption("--graph"))
    selected: dict[str, list[str]] = {}
    for item in request.session.items:
        params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
        if "case" in params:
            selected.setdefault(params["case"].name, []).append(params["provider"])
    return Groups(effort, selected)


@pytest.fixture
def report(benchmark: Any, groups: Groups, request: pytest.FixtureRequest) -> Callable[[Case, str], None]:
    """Measures the group if need be, and reports this provider's share of it."""

    def run(case: Case, provider: str) -> None:
        outcome = groups.outcome(case, provider)
        if outcome.status == "skipped":
            benchmark.skipped = True
            pytest.skip(outcome.reason)
        if outcome.timing is None:
            pytest.fail(outcome.reason, pytrace=False)
        benchmark.group = case.name
        benchmark.extra_info.update(outcome.info, provider=provider, calls_per_round=outcome.timing.iterations)
        marker = request.node.get_closest_marker("benchmark")
        marker.kwargs["timer"].load(outcome.timing.seconds)
        benchmark.pedantic(lambda: None, rounds=len(outcome.timing.seconds))

    return run


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Replaces pytest-benchmark's machine information, which names the host."""
    machine_info.clear()
    machine_info.update(machine.describe())


def pytest_benchmark_generate_commit_info(config: pytest.Config) -> dict[str, Any]:
    """Commit and dirty flag, and nothing of the directory's name."""
    found = machine.commit()
    return {"id": found["commit"] or "unversioned", "dirty": found["dirty"]}
