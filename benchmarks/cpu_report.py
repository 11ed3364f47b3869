"""What the CPU kernels are worth, in one run: `make cpu-report`.

Inference, training and pre-training beside every CPU runtime at hand, all eight sizes beside eager, the depthwise
weight gradient, the memory of a training step, and how time grows with batch, image and threads. Leaves a JSON, a
Markdown and a PNG.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import convnextv2_fast as cf

from . import _machine
from ._roofline import ceilings
from ._timing import CpuWatch, interleaved
from .cases import Setting
from .cpu_pages import markdown, plot
from .measure import Effort, measure
from .module_cases import FcmaeCase, ModelCase

OURS = "fast-cpu"
INFERENCE = (("atto", 1), ("tiny", 8), ("base", 1))
TRAINING = (("atto", 8), ("tiny", 4))
PRETRAINING = (("atto", 8), ("tiny", 4))
DENSE = (OURS, "masked-dense", "masked-dense-compile")
SIZES = ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge")
RUNTIMES = (OURS, "eager", "channels_last", "compile", "onnxruntime", "openvino")
PLANES = ((96, 56), (192, 28), (384, 14), (768, 7))  # of tiny's stages
BATCHES, RESOLUTIONS = (1, 2, 4, 8, 16, 32), (128, 192, 224, 256, 320, 384, 448, 512)

Row = dict[str, Any]


def rows_of(case: ModelCase | FcmaeCase, names: tuple[str, ...], rounds: int, seconds: float) -> list[Row]:
    """One interleaved group as rows."""
    found = []
    for name, outcome in measure(case, names, Effort(rounds=rounds, max_seconds=seconds)).items():
        row: Row = {"case": case.name, "model": case.size, "batch": case.images, "provider": name}
        row |= {"precision": case.setting.precision, "status": outcome.status}
        if outcome.timing is None:
            row["reason"] = outcome.reason
        else:
            row |= outcome.timing.milliseconds() | {"best_ms": round(1e3 * min(outcome.timing.seconds), 4)}
            row |= outcome.info | {"ms_per_image": round(1e3 * outcome.timing.median / case.images, 4)}
        found.append(row)
        print(f"  {case.name} {name}: {row.get('ms_per_image', row.get('reason'))}", flush=True)
    return found


def inference(quick: bool) -> list[Row]:
    """The three cases, float32 and bfloat16, all runtimes."""
    precisions = ("float32",) if quick else ("float32", "bfloat16")
    cases = [ModelCase(s, b, Setting("cpu", p)) for p in precisions for s, b in INFERENCE]
    return [row for case in cases for row in rows_of(case, RUNTIMES, 5 if quick else 15, 20.0 if quick else 45.0)]


def training(quick: bool) -> list[Row]:
    """Forward, cross entropy, backward."""
    cases = [ModelCase(s, b, Setting("cpu", "float32"), backward=True) for s, b in TRAINING]
    return [row for case in cases for row in rows_of(case, RUNTIMES[:4], 5 if quick else 11, 20.0 if quick else 60.0)]


def pretraining(quick: bool) -> list[Row]:
    """An FCMAE step, 60 % of the patches removed, beside dense convolutions times the mask."""
    cases = [FcmaeCase(s, b, Setting("cpu", "float32")) for s, b in PRETRAINING]
    return [row for case in cases for row in rows_of(case, DENSE, 5 if quick else 11, 20.0 if quick else 60.0)]


def sizes(quick: bool) -> list[Row]:
    """Every size at batch 1, ours and eager."""
    found = []
    for size in SIZES[: 6 if quick else 8]:
        found += rows_of(ModelCase(size, 1, Setting("cpu", "float32")), (OURS, "eager"), 7, 20.0)
    return found


def compare(runs: dict[str, Callable[[int], object]], rounds: int = 9, seconds: float = 12.0) -> dict[str, float]:
    """Median milliseconds of each, interleaved."""
    timings = interleaved(runs, watch=CpuWatch(), rounds=rounds, warmup=2, round_seconds=0.02, max_seconds=seconds)
    return {name: round(1e3 * t.median, 4) for name, t in timings.items() if not isinstance(t, Exception)}


def weight_gradient() -> list[Row]:
    """Of the 7x7 depthwise convolution alone, batch 8, float32."""
    found = []
    for c, side in PLANES:
        x, dy = (torch.randn(8 * side * side, c) for _ in range(2))
        kernel = torch.randn(49, c)
        planes = [t.view(8, side, side, c).permute(0, 3, 1, 2) for t in (x, dy)]
        weight = kernel.view(7, 7, c).permute(2, 1, 0).unsqueeze(1).contiguous()
        ours = torch.ops.convnextv2_fast.sparse_dwconv_bwd.default
        options = ([0], [1, 1], [3, 3], [1, 1], False, [0, 0], c, [False, True, False])
        runs: dict[str, Callable[[int], object]] = {
            OURS: lambda _: ours(dy, x, kernel, False, True, side, side, None, None, False),  # noqa: B023
            "torch": lambda _: torch.ops.aten.convolution_backward(planes[1], planes[0], weight, *options),  # noqa: B023
        }
        got = ours(dy, x, kernel, False, True, side, side, None, None, False)[1][:49]
        want = torch.ops.aten.convolution_backward(planes[1], planes[0], weight, *options)[1]
        torch.testing.assert_close(got.view(7, 7, c).permute(2, 1, 0).unsqueeze(1), want, rtol=1e-3, atol=1e-2)
        ms = compare(runs)
        found.append({"c": c, "side": side, "ms": ms, "ratio": round(ms["torch"] / ms[OURS], 2)})
        print(f"  weight gradient C={c} {side}x{side}: {ms}", flush=True)
    return found


_STEP = """
import sys, torch, torch.nn.functional as F
from benchmarks import cpu_report, upstream_eager
import convnextv2_fast as cf
size, batch, who = sys.argv[1], int(sys.argv[2]), sys.argv[3]
model = getattr(cf, f"convnextv2_{size}")() if who == "fast-cpu" else upstream_eager.ConvNeXtV2(size, 1000)
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


def step_memory(size: str = "tiny", batch: int = 8) -> dict[str, float]:
    """MiB by which a training step's resident peak passes what stands there before it (parameters, gradients, input and
    the working memory of a batch of one): activations and working memory, each provider in a process of its own."""
    found = {}
    for name in (OURS, "eager"):
        command = [sys.executable, "-c", _STEP, size, str(batch), name]
        done = subprocess.run(command, cwd=_machine.ROOT, capture_output=True, text=True, check=True)
        found[name] = round(int(done.stdout.split()[-1]) / 2**20, 1)
        print(f"  memory {size} batch {batch} {name}: {found[name]} MiB", flush=True)
    return found


def growth(quick: bool) -> dict[str, Any]:
    """Milliseconds of atto by batch (224 px), by resolution (batch 1), and of tiny by threads."""
    model = cf.convnextv2_atto().eval()

    def timed(images: dict[int, torch.Tensor], net: torch.nn.Module = model) -> dict[str, float]:
        with torch.inference_mode():
            return compare({str(k): lambda _, x=x: net(x) for k, x in images.items()}, 5 if quick else 9, 30.0)

    batch = timed({n: torch.randn(n, 3, 224, 224) for n in BATCHES})
    pixels = timed({r: torch.randn(1, 3, r, r) for r in RESOLUTIONS})
    tiny, x, before = cf.convnextv2_tiny().eval(), torch.randn(8, 3, 224, 224), torch.get_num_threads()
    rounds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(3 if quick else 9):  # in turn, so that a slow minute falls on both
        for n, times in rounds.items():
            torch.set_num_threads(n)
            with torch.inference_mode():
                tiny(x)
                start = time.perf_counter()
                tiny(x)
                times.append(1e3 * (time.perf_counter() - start))
    torch.set_num_threads(before)
    threads = {str(n): statistics.median(times) for n, times in rounds.items()}
    print(f"  batch {batch}\n  pixels {pixels}\n  threads {threads}", flush=True)
    return {"batch": batch, "pixels": pixels, "threads": threads}


PARTS: dict[str, Callable[[bool], Any]] = {
    "inference": inference,
    "training": training,
    "pretraining": pretraining,
    "weight_gradient": lambda quick: weight_gradient(),
    "growth": growth,
    "memory": lambda quick: step_memory(),
    "sizes": sizes,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/cpu-report"))
    parser.add_argument("--quick", action="store_true", help="fewer rounds, float32, no large and huge")
    parser.add_argument("--only", nargs="*", choices=PARTS, help="some parts")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    stem, results = _machine.report("cpu")
    limits = {p: ceilings("cpu", getattr(torch, p)) for p in ("float32", "bfloat16")}
    results["limits"] = {
        p: {"copy_gb_per_s": c.copy / 1e9, "gemm_gflop_per_s": c.gemm / 1e9} for p, c in limits.items()
    }
    for name in args.only or PARTS:
        print(f"{name}:", flush=True)
        results[name] = PARTS[name](args.quick)
        (args.out / f"{stem}.json").write_text(json.dumps(results, indent=1) + "\n")
    (args.out / f"{stem}.md").write_text(markdown(results))
    plot(results, args.out / f"{stem}.png")
    print(f"wrote {stem}.json, .md and .png")


if __name__ == "__main__":
    main()
