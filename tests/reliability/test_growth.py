"""Memory does not grow with the number of calls. Each case has a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from . import growth

ROOT = Path(__file__).resolve().parents[2]
# What builds whole models, or lays out a new mask, is slower by orders than an op.
CALLS = {"frozen": 900, "models": 600, "pretraining": 600}
# Limits: less than malloc's smallest piece (32 bytes) a call; libraries allocate up to 16,000 bytes late, once.
# Python's blocks waver by some hundreds, the resident size by some hundred KiB.
MALLOC, BLOCKS, OBJECTS, RESIDENT = 32_000, 1_200, 20, 2_000
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        growth.mallinfo2 is None or not Path("/proc/self/statm").exists(),
        reason="reads malloc's books of glibc 2.33 or newer, and /proc",
    ),
]


def grown(*command: str) -> list[int]:
    """What the program printed."""
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


@pytest.mark.parametrize("name", growth.NAMES)
def test_nothing_grows(name):
    found = grown("-m", "tests.reliability.growth", name, str(CALLS.get(name, growth.CALLS)))
    malloc, blocks, objects, packed, resident = found
    assert malloc <= MALLOC and blocks <= BLOCKS and objects <= OBJECTS and packed == 0 and resident <= RESIDENT, found


LEAK = """
import mmap, torch
from tests.reliability import growth

def page():
    mapped = mmap.mmap(-1, mmap.PAGESIZE)
    mapped.write(b"x")
    return mapped

kept = []
growth.NAMES["leaky"] = lambda: lambda i: kept.append({})
growth.main("leaky", 2000)
"""


@pytest.mark.parametrize(
    ("leak", "seen"),
    [
        ("torch.zeros(4)", lambda malloc, blocks, objects, packed, resident: malloc > MALLOC),
        ("[]", lambda malloc, blocks, objects, packed, resident: blocks > BLOCKS and objects > OBJECTS),
        ("page()", lambda malloc, blocks, objects, packed, resident: resident > RESIDENT),
    ],
    ids=["malloc", "Python", "mapped"],
)
def test_a_leak_is_seen(leak, seen):
    assert seen(*grown("-c", LEAK.format(leak)))
