"""The pool of cpu/threads: as a C++ program, by torch.set_num_threads, and beside a neighbour that wants the cores."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from convnextv2_fast.testing import make
from tests.native.cxx import needs_compiler, run_check
from tests.native.isas import needs_library

pytestmark = pytest.mark.cpu_kernel
TASKS = Path("/proc/self/task")
CPUS = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


@needs_compiler
def test_pool(tmp_path):
    said = run_check("pool_check.cpp", tmp_path, "-pthread")
    assert re.search(r"^1\d\d checks, 0 failed", said), said


def in_child(code: str, **environment: str) -> str:
    """What a fresh process prints; fails the test if it fails."""
    command, variables = [sys.executable, "-W", "ignore", "-c", code], {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


COUNT_WORKERS = """
import os, time, torch
from pathlib import Path
from convnextv2_fast import library, ops
def workers():
    return sum((task / "comm").read_text() == "cnv2-worker\\n" for task in Path("/proc/self/task").iterdir())
def call():
    return ops.layer_norm(torch.ones(4096, 256), torch.ones(256), torch.ones(256), backend="cpu")
"""


@needs_library
@pytest.mark.skipif(not TASKS.exists(), reason="no /proc here")
def test_workers_start_when_wanted():
    """None for one thread; then one less than torch.set_num_threads says; never more than there are CPUs for."""
    code = """
library.assume_cpus(4)
found = []
for threads, wanted in (1, 0), (3, 2), (2, 2), (64, 3):
    torch.set_num_threads(threads)
    call()
    end = time.monotonic() + 30
    while workers() != wanted and time.monotonic() < end:  # a new thread gives itself its name when it first runs
        time.sleep(0.001)
    found.append(workers())
print(found)
"""
    assert in_child(COUNT_WORKERS + code) == "[0, 2, 2, 3]"


@needs_library
@pytest.mark.skipif(not TASKS.exists(), reason="no /proc here")
@pytest.mark.parametrize("op", ["block", "dwconv_layer_norm", "mlp_grn", "patch_conv"])
def test_training_runs_on_torchs_threads(op):
    """Beside which ours would have to share cores: torch's go on spinning behind each of its operators."""
    code = f"""
from convnextv2_fast.testing import make
problem = make("{op}", 2, 28, 28, 40).to(torch.float32, requires_grad=True)
library.assume_cpus(3)
torch.set_num_threads(3)
problem.public().square().sum().backward()
found = [workers()]
end = time.monotonic() + 30
with torch.no_grad():
    while not workers() and time.monotonic() < end:  # a new thread gives itself its name when it first runs
        problem.public()
print(found + [workers() > 0])
"""
    assert in_child(COUNT_WORKERS + code) == "[0, True]"


@needs_library
@pytest.mark.skipif(not CPUS, reason="no affinity masks here")
def test_affinity_limits_threads():
    """A process bound to one CPU computes on one thread, whatever torch says."""
    code = f"os.sched_setaffinity(0, {{{min(CPUS)}}}); torch.set_num_threads(8); call()\n"
    assert in_child(COUNT_WORKERS + code + "print(library.usable_cpus(), workers())") == "1 0"


@needs_library
@pytest.mark.skipif(len(CPUS) < 2 or not TASKS.exists(), reason="wants two CPUs and /proc")
@pytest.mark.parametrize(
    "variable",
    ["OMP_PROC_BIND=true", "OMP_PLACES={%d},{%d}", "GOMP_CPU_AFFINITY=%d,%d", "GOMP_CPU_AFFINITY=%d,%d,16000-16009"],
)
def test_openmp_binds_the_first_thread(variable):
    """To one CPU; the process may use those of all places, and so may a worker."""
    name, _, value = variable.partition("=")
    both = sorted(CPUS)[:2]
    code = """
torch.set_num_threads(2)
print(len(os.sched_getaffinity(0)))
end = time.monotonic() + 30
while not workers() and time.monotonic() < end:  # a new thread gives itself its name when it first runs
    call()
found = [t for t in Path("/proc/self/task").iterdir() if (t / "comm").read_text() == "cnv2-worker\\n"]
print(library.usable_cpus(), [sorted(os.sched_getaffinity(int(t.name))) for t in found])
"""
    bound, found = in_child(COUNT_WORKERS + code, **{name: value % tuple(both) if "%" in value else value}).split("\n")
    if bound != "1":
        pytest.skip("this OpenMP does not bind its first thread")
    all_of_them = sorted(CPUS) if name == "OMP_PROC_BIND" else both
    assert found == f"{len(all_of_them)} [{all_of_them}]"


@needs_library
@pytest.mark.skipif(len(CPUS) < 2, reason="wants two CPUs")
def test_a_mask_that_is_no_place():
    """Of a place of two CPUs the program has left itself one."""
    one, other = sorted(CPUS)[:2]
    code = f"os.sched_setaffinity(0, {{{one}}}); print(library.usable_cpus())"
    assert in_child(COUNT_WORKERS + code, OMP_PLACES=f"{{{one},{other}}}") == "1"


@needs_library
@pytest.mark.skipif(len(CPUS) < 2 or not TASKS.exists(), reason="wants two CPUs and /proc")
def test_workers_follow_the_affinity():
    """A worker that started with two CPUs is bound to the one that the process has been left since."""
    code = f"""
def allowed():
    found = [t for t in Path("/proc/self/task").iterdir() if (t / "comm").read_text() == "cnv2-worker\\n"]
    return [os.sched_getaffinity(int(t.name)) for t in found]
torch.set_num_threads(2)
library.assume_cpus(2)
call()
os.sched_setaffinity(0, {{{min(CPUS)}}})
library.assume_cpus(0)
end = time.monotonic() + 30
while library.usable_cpus() > 1 and time.monotonic() < end:  # masks are read again every second
    time.sleep(0.01)
library.assume_cpus(2)
while allowed() != [{{{min(CPUS)}}}] and time.monotonic() < end:
    call()
print(allowed() == [{{{min(CPUS)}}}])
"""
    assert in_child(COUNT_WORKERS + code) == "True"


@needs_library
def test_callers_side_by_side():
    """Eight Python threads, each with its own number of threads, get the bits of one that is alone."""
    problem = make("block", 1, 28, 28, 40).to(torch.float32, requires_grad=False)
    with torch.inference_mode():
        want = problem.public()
    wrong: list[str] = []

    def work(threads: int) -> None:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            for _ in range(10):
                if not torch.equal(problem.public(), want):
                    wrong.append(f"{threads} threads")

    before = torch.get_num_threads()
    try:
        callers = [threading.Thread(target=work, args=(1 + i % 4,)) for i in range(8)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    finally:
        torch.set_num_threads(before)
    assert not wrong


@needs_library
@pytest.mark.skipif(len(CPUS) < 2, reason="one CPU")
def test_a_busy_neighbour_does_not_stop_a_call():
    """Beside a process that wants one of two cores, two threads take less than four times as long as one.

    OpenMP's take ten to two hundred times as long, since its threads wait for one that has no core. One thread is
    timed beside the same neighbour, in turn, so that whatever else the machine does falls on both."""
    two = sorted(CPUS)[:2]
    code = f"""
import os, statistics, subprocess, sys, time, torch
from convnextv2_fast import ops
from convnextv2_fast.testing import make
os.sched_setaffinity(0, {set(two)})
problem = make("block", 1, 28, 28, 80).to(torch.float32, requires_grad=False)
spin = "import time; end = time.monotonic() + 100\\nwhile time.monotonic() < end: pass"  # ended below, or by itself
hog = subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.DEVNULL)
try:
    os.sched_setaffinity(hog.pid, {{{two[1]}}})
    took = {{1: [], 2: []}}
    with torch.inference_mode():
        for call in range(60):
            threads = 1 + call % 2
            torch.set_num_threads(threads)
            begin = time.perf_counter()
            for _ in range(3):
                problem.public()
            took[threads].append(time.perf_counter() - begin)
    print(statistics.median(took[2]) / statistics.median(took[1]))
finally:
    hog.kill()
    hog.wait()
"""
    assert float(in_child(code)) < 4
