"""Memory does not grow with the number of calls. Each case has a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from . import growth

ROOT = Path(__file__).resolve().parents[2]
# What builds whole models, or lays out a new mask, is slower by orders than an op.
CALLS = {"models": 2_000, "pretraining": 2_000}
KIB = 400  # 50 bytes a call of an op; a process wavers by about 100
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident size from /proc"),
]


@pytest.mark.parametrize("name", growth.NAMES)
def test_nothing_grows(name):
    calls = CALLS.get(name, growth.CALLS)
    command = [sys.executable, "-m", "tests.reliability.growth", name, str(calls)]
    for _ in range(2):  # a leak grows in both; the allocator takes another arena now and then
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        kib, objects, packed = map(int, done.stdout.split())
        if kib <= KIB:
            break
    assert kib <= KIB and objects <= 20 and packed == 0, done.stdout


def test_a_leak_is_seen():
    code = (
        "from tests.reliability import growth; import torch; kept = []\n"
        "growth.NAMES['leaky'] = lambda: lambda i: kept.append(torch.zeros(64))\n"
        "growth.main('leaky', 2000)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    kib, objects, _ = map(int, done.stdout.split())
    assert kib > KIB and objects > 20
