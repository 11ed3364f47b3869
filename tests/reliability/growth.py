"""Prints how a process grows from when it has settled to the last of N calls: bytes of malloc, Python's memory blocks
and objects, bytes of packed weights, KiB in memory.

What malloc has given out is exact, from glibc's own books. The resident size wavers by hundreds of KiB and can stay as
it is while memory leaks into pages that were there before; it tells of memory that came past malloc.

    python -m tests.reliability.growth NAME [N]
"""

import ctypes
import gc
import os
import sys
from pathlib import Path

import torch

import convnextv2_fast as cf
from convnextv2_fast.ops._shared import packed
from convnextv2_fast.testing import ALL_OPS, kinds, make

CALLS = 2_000
PAGE = os.sysconf("SC_PAGE_SIZE") // 1024
SMALL = dict(num_classes=3, depths=(1, 1, 1, 1), dims=(8, 8, 16, 16))


class MallocInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    )


try:
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = MallocInfo
except AttributeError:  # not glibc, or older than 2.33
    mallinfo2 = None


def given_out():
    """Bytes that malloc has given out and not got back: from its arenas, and mapped on their own."""
    assert mallinfo2 is not None
    found = mallinfo2()
    return found.uordblks + found.hblkhd


def resident():
    """KiB of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def op_steps(op):
    """Every layout in turn, forward and backward, float32 and bfloat16."""
    problems = [make(op, 2, 3, 3, 8, kind).to(dtype) for kind in kinds(op) for dtype in (torch.float32, torch.bfloat16)]

    def step(i):
        problem = problems[i % len(problems)]
        problem.public().sum().backward()
        for t in problem.tensors.values():
            t.grad = None

    return step


def inference():
    """Weights that change at every call: each packed copy replaces the one before."""
    model, x = cf.ConvNeXtV2(**SMALL).eval(), torch.randn(1, 3, 32, 32)

    @torch.no_grad()
    def step(i):
        model.stages[0][0].pwconv1.weight.mul_(1.0001 if i % 2 else 0.9999)
        model(x)

    return step


def frozen():
    """A model frozen, packed anew, unfrozen, and frozen again."""
    model, x = cf.ConvNeXtV2(**SMALL).eval(), torch.randn(1, 3, 32, 32)

    @torch.no_grad()
    def step(i):
        (cf.unfreeze if i % 3 == 2 else cf.freeze)(model)
        model(x)

    return step


def models():
    """A model made, accelerated, used, restored and dropped."""

    @torch.no_grad()
    def step(i):
        model = cf.ConvNeXtV2(**SMALL).eval()
        cf.accelerate(model)
        model(torch.randn(1, 3, 32, 32))
        cf.restore(model)

    return step


def pretraining():
    """FCMAE's step with a new mask each time."""
    small = dict(depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), decoder_embed_dim=16, init="std02")
    model, x = cf.fcmae.FCMAE(**small), torch.randn(2, 3, 64, 64)

    def step(i):
        model(x, mask_ratio=0.5)[0].backward()
        model.zero_grad()

    return step


NAMES = {
    **{op: (lambda op=op: op_steps(op)) for op in ALL_OPS},
    "frozen": frozen,
    "inference": inference,
    "models": models,
    "pretraining": pretraining,
}


def state():
    """Bytes of malloc, Python's blocks, Python's objects, bytes of packed weights, KiB in memory."""
    gc.collect()
    objects = len(gc.get_objects())
    return given_out(), sys.getallocatedblocks(), objects, packed.held_bytes(), resident()


def main(name, calls=CALLS):
    torch.set_num_threads(1)
    step, settled = NAMES[name](), calls // 5
    for i in range(settled):
        step(i)
    state()  # looking takes memory itself, the first time
    before = state()
    for i in range(settled, calls):
        step(i)
    print(*(after - b for after, b in zip(state(), before, strict=True)))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
