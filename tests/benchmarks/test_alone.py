"""Providers measured alone: real processes, few because each imports torch; the rest with answers made here."""

import json
import os
import subprocess
import sys
import time

import pytest

from convnextv2_fast.bench import alone, neighbour, worker
from convnextv2_fast.bench.alone import Contender
from convnextv2_fast.bench.worker import Turn

FAKE = "tests.benchmarks.subjects:fake"
TURN = Turn(warm_seconds=0.0, rounds=3, round_seconds=0.0, max_seconds=0.1)


def answered(request):
    return json.loads(json.dumps(worker.answer(json.loads(json.dumps(request)))))


def test_a_worker_answers(tmp_path):
    answer = alone.ask(Contender(FAKE, {}).request("check", tmp_path))
    assert answer == {"difference": 0.5} and (tmp_path / "seen").exists()


def test_a_worker_that_dies_is_an_error(tmp_path):
    answer = alone.ask(Contender(FAKE, {"code": 7}).request("check", tmp_path))
    assert answer == {"error": "its process ended with code 7: it said nothing", "kind": "failed"}


def test_two_processes_serve_at_once(tmp_path):
    per_second = alone.throughput(
        Contender(FAKE, {"seconds": 0.1}), tmp_path, processes=2, threads=1, callers=2, turn=Turn(max_seconds=0.5)
    )
    assert 22 < per_second <= 40.5, "four callers that wait 100 ms each"


@pytest.mark.parametrize(
    ("contender", "kind", "says"),
    [
        (Contender(FAKE, {"wrong": "relative error 1"}), "wrong", "relative error 1"),
        (Contender("tests.benchmarks.subjects:none", {}), "failed", "AttributeError: "),
        (Contender("no.such.module:none", {}), "failed", "ModuleNotFoundError: "),
    ],
)
def test_what_is_wrong_gets_no_number(monkeypatch, tmp_path, contender, kind, says):
    monkeypatch.setattr(alone, "ask", answered)
    found = alone.in_turn({"bad": contender, "good": Contender(FAKE, {})}, tmp_path, turns=2, turn=TURN)
    assert found["bad"].kind == kind and says in found["bad"].error and not found["bad"].timing.seconds
    assert len(found["good"].timing.seconds) == 2 and found["good"].info == {"difference": 0.5}
    assert all(0.001 <= seconds < 0.1 for seconds in found["good"].timing.seconds)


def test_a_failure_takes_back_the_earlier_turns(monkeypatch, tmp_path):
    answers = iter([{}, {"seconds": [1.0], "iterations": 1}, {"error": "out of memory", "kind": "failed"}])
    monkeypatch.setattr(alone, "ask", lambda request: next(answers))
    found = alone.in_turn({"a": Contender(FAKE, {})}, tmp_path, turns=3, turn=TURN)["a"]
    assert found.error == "out of memory" and found.timing.seconds == []


def test_the_neighbour_computes_while_it_is_asked_for(monkeypatch, tmp_path):
    started, popen = [], subprocess.Popen

    def seen(*args, **options):
        started.append(popen(*args, **options))
        return started[-1]

    def told(request):
        running.append([process.poll() is None for process in started])
        return {"seconds": [1.0], "iterations": 1}

    running = []
    monkeypatch.setattr(neighbour.subprocess, "Popen", seen)
    monkeypatch.setattr(alone, "ask", told)
    alone.in_turn({"a": Contender(FAKE, {})}, tmp_path, turns=1, turn=TURN, neighbour=True)
    assert running == [[], [True]] and started[0].poll() is not None, "during turns, not during checks, not after"


@pytest.mark.parametrize("wait", [0, 0.3])
def test_the_neighbour_does_not_outlive_its_parent(wait):
    """Whether the parent ends before the neighbour has begun, or while it computes."""
    code = (
        "from convnextv2_fast.bench import neighbour\nimport os, time\n"
        f"with neighbour.busy():\n    time.sleep({wait})\n"
        "    print(open(f'/proc/self/task/{os.getpid()}/children').read(), flush=True)\n"
        "    os._exit(0)"
    )
    if not os.path.exists("/proc/self/task"):
        pytest.skip("no /proc")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    (child,) = map(int, done.stdout.split())
    until = time.monotonic() + 20
    while time.monotonic() < until and os.path.exists(f"/proc/{child}"):
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{child}")
