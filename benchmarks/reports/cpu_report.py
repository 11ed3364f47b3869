"""What the CPU kernels are worth, in one run: `make cpu-report`.

Inference, training and pre-training beside every CPU runtime at hand, also beside a busy process, in every size, on a
small image, and served by several processes and threads: in `cpu_models`. Here: the depthwise weight gradient, the
memory of a training step, and how time grows with batch, image and threads. Leaves a CSV, a page and a plot.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import convnextv2_fast as cf
from convnextv2_fast.bench.timing import Timing

from ..suite.measure import significant
from ..suite.peak import peak
from ..suite.roofline import ceilings
from . import cpu_models, cpu_pages, cpu_speed, machine, program, tidy
from .naming import OURS, published
from .program import Run

PLANES = ((96, 56), (192, 28), (384, 14), (768, 7))  # of tiny's stages
BATCHES, RESOLUTIONS = (1, 2, 4, 8, 16, 32), (128, 192, 224, 256, 320, 384, 448, 512)
LIMITS = {"rounds": 9, "warmup": 2, "round_seconds": 0.02, "max_seconds": 12.0}  # of calls that are no group


def limits(run: Run, quick: bool) -> None:
    """Copy bandwidth and the rate of matrix products, of which the roofline is made, and the peak."""
    for precision in ("float32", "bfloat16"):
        found = ceilings("cpu", getattr(torch, precision))
        note = {
            "copy": {"gb_per_s": significant(found.copy / 1e9)},
            "gemm": {"tflop_per_s": significant(found.gemm / 1e12)},
        }
        for case, figures in note.items():
            run.add("ceilings", case, "pytorch", dtype=precision, note=tidy.noted(**figures))
        for threads in sorted({1, torch.get_num_threads()}):
            rate, mode = peak(precision, threads), f"{threads} thread{'s' if threads > 1 else ''}"
            if rate is None:
                print(f"  peak {precision}: no such instruction, or no C++ compiler", flush=True)
                continue
            note = tidy.noted(tflop_per_s=significant(rate / 1e12))
            run.add("ceilings", cpu_speed.PEAK, "registers", mode=mode, dtype=precision, note=note)


def weight_gradient(run: Run, quick: bool) -> None:
    """Of the 7x7 depthwise convolution alone, batch 8, float32."""
    for c, side in PLANES:
        x, dy = (torch.randn(8 * side * side, c) for _ in range(2))
        kernel = torch.randn(49, c)
        planes = [t.view(8, side, side, c).permute(0, 3, 1, 2) for t in (x, dy)]
        weight = kernel.view(7, 7, c).permute(2, 1, 0).unsqueeze(1).contiguous()
        ours = torch.ops.convnextv2_fast.dwconv_bwd.default
        options = ([0], [1, 1], [3, 3], [1, 1], False, [0, 0], c, [False, True, False])
        calls = {
            "fast-cpu": lambda _: ours(dy, x, kernel, False, True, side, side, None),  # noqa: B023
            "torch": lambda _: torch.ops.aten.convolution_backward(planes[1], planes[0], weight, *options),  # noqa: B023
        }
        got = ours(dy, x, kernel, False, True, side, side, None)[1][:49]
        want = torch.ops.aten.convolution_backward(planes[1], planes[0], weight, *options)[1]
        torch.testing.assert_close(got.view(7, 7, c).permute(2, 1, 0).unsqueeze(1), want, rtol=1e-3, atol=1e-2)
        places = {"fast-cpu": published("fast-cpu"), "torch": ("pytorch", "eager")}
        case: dict[str, Any] = {"case": f"dwconv7x7-{side}x{side}x{c}-wgrad", "batch": 8, "dtype": "float32"}
        columns = {name: {**case, "provider": whose, "mode": mode} for name, (whose, mode) in places.items()}
        run.race("ops", calls, columns.__getitem__, **LIMITS)


_STEP = """
import sys, torch, torch.nn.functional as F
from benchmarks.reports import cpu_report
from benchmarks.rivals import upstream_eager
import convnextv2_fast as cf
size, batch, who = sys.argv[1], int(sys.argv[2]), sys.argv[3]
model = getattr(cf, f"convnextv2_{size}")() if who == "fast" else upstream_eager.ConvNeXtV2(size, 1000)
x, labels = torch.randn(batch, 3, 224, 224), torch.arange(batch)
F.cross_entropy(model(x[:1]), labels[:1]).backward()  # threads, libraries and the gradients are there before
before = cpu_report.memory("VmRSS")
cpu_report.reset_peak()
for _ in range(2):
    F.cross_entropy(model(x), labels).backward()
print(cpu_report.memory("VmHWM") - before)
"""


def memory(field: str) -> int:
    """Bytes, of this process's /proc/self/status."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in text.splitlines() if line.startswith(field)).split()[1])


def reset_peak() -> None:
    """Makes VmHWM start again from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def step_memory(run: Run, quick: bool, size: str = "tiny", batch: int = 8) -> None:
    """MiB by which a training step's resident peak passes what stands there before it (parameters, gradients, input and
    the working memory of a batch of one): activations and working memory, each provider in a process of its own."""
    for name in ("fast", "eager"):
        command = [sys.executable, "-c", _STEP, size, str(batch), name]
        done = subprocess.run(command, cwd=machine.ROOT, capture_output=True, text=True, check=True)
        peak = round(int(done.stdout.split()[-1]) / 2**20, 1)
        provider, mode = published(name)
        case = f"convnextv2_{size}-224px-forward_backward"
        run.add("memory", case, provider, mode=mode, batch=batch, dtype="float32", peak_mib=peak)
        print(f"  memory {size} batch {batch} {name}: {peak} MiB", flush=True)


def growth(run: Run, quick: bool) -> None:
    """Time of atto by batch (224 px), by the side of the image (batch 1), and of frozen tiny by threads."""
    model, tiny = cf.convnextv2_atto().eval(), cf.freeze(cf.convnextv2_tiny().eval())
    ours: dict[str, Any] = {"provider": OURS, "mode": "eager", "dtype": "float32"}

    def series(part: str, sizes: list[tuple[int, int]]) -> None:
        calls, columns = {}, {}
        for batch, side in sizes:
            x, name = torch.randn(batch, 3, side, side), f"batch {batch}, {side} px"
            calls[name] = lambda _, x=x: model(x)
            columns[name] = {"case": f"convnextv2_atto-{side}px-forward", "batch": batch, **ours}
        with torch.inference_mode():
            run.race(part, calls, columns.__getitem__, **{**LIMITS, "rounds": 5 if quick else 9, "max_seconds": 30.0})

    series("growth-batch", [(n, 224) for n in BATCHES])
    series("growth-side", [(1, side) for side in RESOLUTIONS])
    x, before = torch.randn(8, 3, 224, 224), torch.get_num_threads()
    timings = {1: Timing(), 2: Timing()}
    for _ in range(3 if quick else 9):  # in turn, so that a slow minute falls on both
        for n, timing in timings.items():
            torch.set_num_threads(n)
            with torch.inference_mode():
                tiny(x)
                start = time.perf_counter()
                tiny(x)
                timing.seconds.append(time.perf_counter() - start)
    torch.set_num_threads(before)
    for n, timing in timings.items():
        columns = {**ours, "mode": f"frozen, {n} thread{'s' if n > 1 else ''}", "case": "convnextv2_tiny-224px-forward"}
        run.record("growth-threads", columns["mode"], timing, batch=8, **columns)


PARTS: dict[str, Callable[[Run, bool], None]] = {
    "ceilings": limits,
    "inference": cpu_models.inference,
    "neighbour": cpu_models.neighbour,
    "small": cpu_models.small,
    "servers": cpu_models.servers,
    "training": cpu_models.training,
    "pretraining": cpu_models.pretraining,
    "weight_gradient": weight_gradient,
    "growth": growth,
    "memory": step_memory,
    "sizes": cpu_models.sizes,
}


def main(arguments: list[str] | None = None) -> None:
    parser = program.options(
        "cpu-report", __doc__, quick="fewer and shorter turns, fewer cases, float32, no torch.compile"
    )
    parser.add_argument("--only", nargs="*", choices=PARTS, help="some parts")
    args = parser.parse_args(arguments)
    run = program.begin(parser, args, "--quick" if args.quick else "")
    for name in args.only or PARTS:
        print(f"{name}:", flush=True)
        PARTS[name](run, args.quick)
    run.finish(cpu_pages.markdown, cpu_pages.PLOT)


if __name__ == "__main__":
    main()
