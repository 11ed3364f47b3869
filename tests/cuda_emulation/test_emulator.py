"""The emulation itself: what it computes is right, and what a kernel does wrong shows. See emulator_check.cpp."""

import os
import subprocess

import pytest

from tests.cuda_emulation.building import build_check
from tests.native.cxx import needs_compiler

pytestmark = needs_compiler
ORDERS = ("forward", "reverse", "random:1", "random:2", "random:3")
RIGHT = (
    "warp_functions",
    "block_sums",
    "blocks",
    "recovers",
    "uninitialised",
    "fragments",
    "product_bfloat16",
    "product_float16",
    "barrier",
    "barrier_across_a_shuffle",
    "barrier_before_overwriting",
    "syncwarp",
    "copies_waited_for",
)
MISSING = (
    "no_barrier",
    "no_barrier_across_a_shuffle",
    "no_barrier_before_overwriting",
    "no_syncwarp",
    "copies_without_barrier",
)


def run(*names: str, order: str = "forward", flavour: str = "plain", flags: tuple[str, ...] = ()):
    environment = {**os.environ, "CUDA_EMULATION_ORDER": order, "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}
    return subprocess.run(
        [build_check(flavour, *flags), *names], env=environment, capture_output=True, text=True, check=False
    )


def verdicts(*names: str, **how) -> dict[str, str]:
    done = run(*names, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.mark.parametrize("order", ORDERS)
def test_right_in_every_order(order):
    assert verdicts(*RIGHT, order=order) == dict.fromkeys(RIGHT, "right")


def test_right_under_the_sanitizers():
    assert verdicts(*RIGHT, flavour="sanitized") == dict.fromkeys(RIGHT, "right")


def test_right_with_ucontext():
    """What other processors than x86-64 switch stacks by."""
    assert verdicts(*RIGHT, flags=("-DCUDA_EMULATION_UCONTEXT",)) == dict.fromkeys(RIGHT, "right")


def test_missing_barriers_are_wrong_in_some_order():
    found = [verdicts(*MISSING, order=order) for order in ORDERS]
    for name in MISSING:
        assert "wrong" in {verdict[name] for verdict in found}, name


@pytest.mark.parametrize("order", ORDERS)
def test_missing_wait_is_wrong_in_every_order(order):
    assert verdicts("copies_waited_for_too_little", order=order) == {"copies_waited_for_too_little": "wrong"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("copies_never_waited_for", "thread 0: 1 asynchronous copies are still under way at the thread's end"),
        ("copies_of_no_group", "thread 0: 1 asynchronous copies are still under way at the thread's end"),
        ("shared_overflow", "write outside its 100 bytes of shared memory, at offset 100"),
        ("shared_underflow", "write outside its 100 bytes of shared memory, at offset -1"),
        ("half_waits", "not all threads arrive: 32 of 64 have ended, 32 wait in __syncthreads at "),
        ("two_barriers", "divergent barrier: some threads wait in __syncthreads at "),
        ("some_lanes", "12 of 32 have ended, 20 lanes of warp 0 wait in __shfl_xor_sync at "),
        ("two_shuffles", "divergent warp: some lanes wait in __shfl_xor_sync at "),
        ("partial_mask", "the mask names not all lanes"),
    ],
)
def test_ends_with_a_message(name, message):
    done = run(name)
    assert done.returncode != 0 and not done.stdout
    assert "CUDA emulation: block (0, 0, 0)" in done.stderr and message in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("name", "message", "kernel"),
    [
        ("shared_overflow", "heap-buffer-overflow", "shared_overflow_kernel"),
        ("shared_underflow", "heap-buffer-overflow", "shared_overflow_kernel"),
        ("global_overflow", "heap-buffer-overflow", "global_overflow_kernel"),
        ("misaligned", "misaligned address", "misaligned_kernel"),
    ],
)
def test_sanitizers_notice(name, message, kernel):
    """With the kernel's name, from the stack of a fiber."""
    done = run(name, flavour="sanitized")
    assert done.returncode != 0 and not done.stdout
    assert message in done.stderr and kernel in done.stderr, done.stderr
