"""The clockwork of the benchmarks: quantiles, interleaving, replay, and no number for a wrong result."""

import gc
import itertools
import math
import weakref
from unittest.mock import MagicMock

import pytest
import torch
import torch._inductor.config

from benchmarks.conftest import ReplayClock
from benchmarks.suite import checks, measure, providers
from benchmarks.suite.cases import Candidate, OpCase, Setting
from benchmarks.suite.problems import Shape
from convnextv2_fast.bench.timing import CpuWatch, Timing, graphed, interleaved, quantile, rotated


class FakeWatch:
    """Every call takes what its candidate says, and is written down."""

    def __init__(self, seconds):
        self.seconds, self.log = seconds, []

    def measure(self, run, first, calls):
        name = run(first)
        self.log.append((name, first, calls))
        return self.seconds[name] * calls


def candidates(*names):
    return {name: (lambda i, name=name: name) for name in names}


def test_quantile():
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.5
    assert quantile([5.0], 0.2) == 5.0
    assert quantile([0.0, 10.0], 0.8) == pytest.approx(8.0)
    with pytest.raises(ValueError):
        quantile([], 0.5)


def test_the_median_shrugs_off_one_slow_round():
    timing = Timing([1.0, 1.0, 1.0, 1.0, 100.0])
    assert timing.median == 1.0
    assert timing.percentiles() == {"ms": 1000.0, "p20": 1000.0, "p80": 20800.0} and len(timing.seconds) == 5
    assert timing.spread == pytest.approx(19.8)


def test_rounds_interleave_and_their_order_rotates():
    watch = FakeWatch({"a": 1.0, "b": 1.0, "c": 1.0})
    interleaved(candidates("a", "b", "c"), watch=watch, rounds=4, warmup=0)
    names = [name for name, _, _ in watch.log]
    rounds = [names[i : i + 3] for i in range(0, 12, 3)]
    assert all(sorted(entry) == ["a", "b", "c"] for entry in rounds), "each round runs every candidate once"
    assert rounds == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


def test_rotated():
    assert rotated(["a", "b"], 3) == ["b", "a"]
    assert rotated([], 2) == []


def test_short_candidates_are_called_several_times_within_a_round():
    watch = FakeWatch({"short": 0.001, "long": 0.5})
    results = interleaved(candidates("short", "long"), watch=watch, rounds=2, warmup=0, round_seconds=0.01)
    assert results["short"].iterations == 10 and results["long"].iterations == 1
    assert results["short"].seconds == pytest.approx([0.001, 0.001]), "seconds are those of one call"


def test_input_sets_are_counted_up():
    seen = []
    interleaved({"a": seen.append}, watch=FakeWatch({None: 1.0}), rounds=3, warmup=1, round_seconds=0.5)
    assert seen == list(range(5)), "one of warm-up, one that tells how long a call takes, three rounds"
    seen.clear()
    interleaved({"a": seen.append}, watch=CpuWatch(), rounds=3, warmup=2)
    assert seen == list(range(5)), "two of warm-up, three rounds"


def test_a_failing_candidate_does_not_end_the_others():
    calls = itertools.count()

    def breaks_later(i):
        if next(calls) == 3:
            raise RuntimeError("late")

    def breaks(i):
        raise RuntimeError("at once")

    results = interleaved(
        {"breaks": breaks, "later": breaks_later, "fine": lambda i: None}, watch=CpuWatch(), rounds=5, warmup=1
    )
    assert str(results["breaks"]) == "at once" and str(results["later"]) == "late"
    assert len(results["fine"].seconds) == 5


def test_no_new_round_after_the_limit_but_the_least_number():
    results = interleaved(candidates("a"), watch=FakeWatch({"a": 1.0}), rounds=50, max_seconds=-1.0, least=3)
    assert len(results["a"].seconds) == 3
    results = interleaved(candidates("a"), watch=FakeWatch({"a": 1.0}), rounds=50, max_seconds=math.inf)
    assert len(results["a"].seconds) == 50


def test_the_clock_replays_what_was_recorded():
    clock = ReplayClock()
    clock.load([0.25, 0.5])
    readings = [clock() for _ in range(4)]
    assert [readings[1] - readings[0], readings[3] - readings[2]] == [0.25, 0.5]


def test_poison_fills_uninitialised_memory_and_is_lifted():
    before = torch.are_deterministic_algorithms_enabled()
    with checks.poisoned("cpu"):
        assert torch.empty(1000).isnan().all()
    assert torch.are_deterministic_algorithms_enabled() == before


def test_difference_is_relative_to_the_largest_element():
    found = checks.difference([torch.tensor([100.0, 1.1])], [torch.tensor([100.0, 1.0])])
    assert found.max_relative == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([torch.tensor([1.0, float("nan")])], "not finite"),
        ([torch.ones(3)], "shape"),
        ([], "0 tensors"),
    ],
)
def test_difference_refuses(outputs, message):
    with pytest.raises(checks.CheckFailed, match=message):
        checks.difference(outputs, [torch.ones(2)])


def test_a_wrong_result_gets_no_number(monkeypatch):
    case = OpCase("layer_norm", Shape(1, 3, 3, 8), Setting(smoke=True))
    timed = []

    def wrong(name, case):
        return Candidate(timed.append, lambda: [case.expected[0] + 1], lambda: case.expected)

    monkeypatch.setattr(providers, "build", wrong)
    outcome = measure.measure(case, ["fast-torch"], measure.Effort.smoke())["fast-torch"]
    assert outcome.status == "failed" and outcome.wrong and outcome.timing is None
    assert "tolerance" in outcome.reason and timed == []


def test_a_provider_that_breaks_or_is_absent_is_a_row():
    case = OpCase("grn", Shape(1, 3, 3, 8), Setting(smoke=True))
    outcomes = measure.measure(case, ["eager", "compile-nothing"], measure.Effort.smoke())
    assert outcomes["eager"].status == "ok" and outcomes["eager"].info["max_relative_error"] < 1e-5
    assert outcomes["compile-nothing"].status == "skipped" or "KeyError" in outcomes["compile-nothing"].reason


def test_a_machine_that_cannot_compile_is_a_skip_that_says_so(monkeypatch):
    monkeypatch.setenv("CXX", "/no/such/compiler")
    torch.compiler.reset()
    case = OpCase("grn", Shape(1, 3, 5, 8), Setting(smoke=True))
    with torch._inductor.config.patch({"cpp.cxx": (None, "/no/such/compiler"), "force_disable_caches": True}):
        outcome = measure.measure(case, ["compile"], measure.Effort.smoke())["compile"]
    assert outcome.status == "skipped" and "torch.compile fails here" in outcome.reason and "compiler" in outcome.reason


def test_a_captured_run_keeps_what_its_graph_reads(monkeypatch):
    """The weights and inputs: without them a replay reads memory that others have, or nobody."""
    for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    weights = torch.ones(1)
    alive = weakref.ref(weights)
    replay = graphed(lambda i, weights=weights: None, 2)
    del weights
    gc.collect()
    assert alive() is not None
    replay(3)
    del replay
    gc.collect()
    assert alive() is None
