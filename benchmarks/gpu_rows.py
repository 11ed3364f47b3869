"""The measured sections of the GPU report. Each runs in a process of its own, so that a crash, a hang or a broken CUDA
context costs the rows of one task and not the report.

The process appends lines of JSON to a log, which the parent reads: {"plan": [row keys]} first, {"begin": [row keys]}
before a task, {"row": {...}} after it. It ends by itself at its deadline, or with EXIT_BROKEN when the device is lost;
started again with the rows that are done, it goes on behind them.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from . import peers, providers
from ._report import key
from ._roofline import ceilings
from .cases import Case, OpCase, Setting
from .depthwise import rows as depthwise_rows
from .measure import Effort, measure, one_line
from .module_cases import BlockCase, FcmaeCase, ModelCase
from .problems import Shape
from .sizes import SIZES

EXIT_BROKEN = 75
# Forward passes are replayed as CUDA graphs: the kernels alone, whatever the host does between them.
OPS = Effort(rounds=15, warmup=3, round_seconds=0.004, max_seconds=2, graph=True)
MODELS = Effort(rounds=10, warmup=3, round_seconds=0.0, max_seconds=5, graph=True)
LATENCY = Effort(rounds=30, warmup=3, round_seconds=0.004, max_seconds=3, graph=True)
DEPTHWISE = Effort(rounds=10, warmup=2, round_seconds=0.004, max_seconds=1)
DRY = Effort(rounds=1, warmup=0, round_seconds=0.0)
Row = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """Shapes of a real run, or of a dry one on a CPU."""

    device: str
    dry: bool

    def setting(self, precision: str) -> Setting:
        return Setting(self.device, precision, self.dry)

    def effort(self, wanted: Effort) -> Effort:
        return DRY if self.dry else wanted


@dataclass(frozen=True)
class Task:
    """Rows that are measured together. `needs`: seconds it takes, roughly; it is not begun with less left."""

    keys: tuple[str, ...]
    needs: float
    run: Callable[[Sequence[str]], list[Row]]  # of those of its keys that are wanted
    warm: Callable[[Sequence[str]], None] = lambda _: None  # one call of what Triton has to compile for them


TRITON = ("fast-triton", "fast-preferred")


def group(case: Case, wanted: tuple[str, ...], effort: Effort, needs: float) -> Task:
    """A case and its providers as a task."""
    if case.setting.smoke:
        needs = 0.0

    keys = {key({"name": case.name, "provider": name}): name for name in wanted}

    def run(missing: Sequence[str]) -> list[Row]:
        rows = []
        for name, outcome in measure(case, [keys[each] for each in missing], effort).items():
            row: Row = {"name": case.name, "provider": name, "status": outcome.status}
            if outcome.reason:
                row["reason"] = outcome.reason
            if outcome.wrong:
                row["wrong"] = True
            rows.append(row | (outcome.timing.milliseconds() if outcome.timing else {}) | outcome.info)
        return rows

    def compile_all(missing: Sequence[str]) -> None:
        measure(case, [keys[each] for each in missing if keys[each] in TRITON], DRY)

    return Task(tuple(keys), needs, run, compile_all)


def measured_ceilings(scale: Scale) -> list[Task]:
    """Copy bandwidth and matrix product rates."""

    def task(precision: str) -> Task:
        name = f"ceilings-{precision}-{scale.device}"

        def run(_: Sequence[str]) -> list[Row]:
            found = ceilings(scale.device, getattr(torch, precision))
            rates = {"gb_per_s": round(found.copy / 1e9, 1), "gflop_per_s": round(found.gemm / 1e9, 1)}
            return [{"name": name, "status": "ok", **rates}]

        return Task((name,), 1.0, run)

    return [task(precision) for precision in (("float32",) if scale.dry else ("bfloat16", "float16", "float32"))]


def depthwise(scale: Scale, size: str, precision: str) -> Task:
    """The 7x7 depthwise convolution alone, torch's and ours, at a model's four stages."""
    dims = SIZES[size][1]
    stages = [(4, 8)] if scale.dry else [(56 >> i, dim) for i, dim in enumerate(dims)]
    batch = 1 if scale.dry else 128
    keys, run = depthwise_rows(stages, batch, precision, scale.device, scale.effort(DEPTHWISE))
    return Task(tuple(keys), 0.0 if scale.dry else 25.0, lambda _: run())


def model(scale: Scale, size: str, precision: str, backward: bool, batch: int | None = None) -> ModelCase:
    """A dense model at 224 px; batch 128, in training 64."""
    if scale.dry:
        return ModelCase("atto", 2, scale.setting("float32"), backward, resolution=32, classes=10)
    return ModelCase(size, batch or (64 if backward else 128), scale.setting(precision), backward)


def pretraining(scale: Scale, size: str, precision: str = "amp") -> FcmaeCase:
    """An FCMAE step, batch 64."""
    if scale.dry:
        return FcmaeCase("atto", 2, scale.setting("float32"), resolution=64)
    return FcmaeCase(size, 64, scale.setting(precision))


def has_timm() -> bool:
    """Whether timm can stand for the peers."""
    return peers.installed("timm") and peers.installed("torchvision")


def rivals(scale: Scale) -> list[Task]:
    """The peers, most valuable first, compilations between and behind what is quick."""
    eager, compiled = (("timm",), ("timm-compile",)) if has_timm() else (("eager", "channels_last"), ("compile",))
    effort = scale.effort(MODELS)
    if scale.dry:
        cases = [group(model(scale, "tiny", "float32", backward), eager, effort, 0) for backward in (False, True)]
        return [
            *cases,
            depthwise(scale, "tiny", "float32"),
            group(pretraining(scale, "tiny"), ("masked-dense",), effort, 0),
        ]
    return [
        group(model(scale, "tiny", "amp", False), eager, effort, 6),
        group(model(scale, "tiny", "bfloat16", False), eager, effort, 6),
        group(model(scale, "tiny", "amp", True), eager, effort, 8),
        depthwise(scale, "tiny", "bfloat16"),
        group(pretraining(scale, "tiny"), ("masked-dense",), effort, 10),
        group(model(scale, "tiny", "bfloat16", False), compiled, effort, 30),
        group(model(scale, "tiny", "amp", True), compiled, effort, 45),
        group(model(scale, "base", "bfloat16", False), eager, effort, 8),
        group(model(scale, "base", "amp", False), eager, effort, 8),
        group(model(scale, "base", "amp", True), eager, effort, 10),
        depthwise(scale, "base", "bfloat16"),
        group(pretraining(scale, "tiny"), ("masked-dense-compile",), effort, 45),
        depthwise(scale, "tiny", "float16"),
        depthwise(scale, "base", "float16"),
        group(model(scale, "tiny", "amp", False), compiled, effort, 30),
        group(model(scale, "base", "bfloat16", False), compiled, effort, 60),
        group(model(scale, "base", "amp", True), compiled, effort, 90),
    ]


def ours(scale: Scale) -> list[Task]:
    """Every op on every backend, block, models, FCMAE."""
    native = {"cpu"} if scale.device == "cpu" else {"cuda", "triton"}
    mine = tuple(f"fast-{name}" for name in providers.backends() if name in {*native, "torch"})
    together = (*mine, *(() if scale.dry else ("fast-preferred",)))  # cuda and triton, each op on one of them
    wanted = (*together, "eager")
    effort, setting = scale.effort(OPS), scale.setting("float32" if scale.dry else "bfloat16")

    def op(name: str, shape: Shape, needs: float = 5) -> Iterator[Task]:
        rival = "masked-dense" if name == "sparse_dwconv" else "eager"
        held = tuple(f"fast-{b}" for b in providers.backends(name) if f"fast-{b}" in mine)
        for backward in (False, True):
            yield group(OpCase(name, shape, setting, backward), (*held, rival), effort, needs)

    if scale.dry:
        shapes = {
            name: Shape(1, 7, 7, 8) for name in ("dwconv_layer_norm", "sparse_dwconv", "mlp_grn", "grn", "layer_norm")
        }
        shapes["patch_conv"] = Shape(1, 8, 8, 3, 8, 4)
        tasks = [task for name, shape in shapes.items() for task in op(name, shape)]
        tasks.append(group(BlockCase(Shape(1, 7, 7, 8), setting, True), wanted, effort, 0))
        tasks += [group(model(scale, "tiny", "float32", backward), wanted, effort, 0) for backward in (False, True)]
        return [*tasks, group(pretraining(scale, "tiny"), mine, effort, 0)]
    stages = [Shape(64, 56 >> i, 56 >> i, dim) for i, dim in enumerate(SIZES["tiny"][1])]
    whole = scale.effort(MODELS)
    compiled = (*(f"compile-fast-{name}" for name in ("cuda", "triton")), "timm-compile" if has_timm() else "compile")
    tasks = [group(model(scale, "tiny", "bfloat16", False), wanted, whole, 20)]
    tasks.append(group(model(scale, "tiny", "amp", True), wanted, whole, 20))
    tasks.append(group(pretraining(scale, "tiny"), (*together, "masked-dense"), whole, 20))
    tasks += [task for shape in (stages[0], stages[2]) for task in op("dwconv_layer_norm", shape)]
    tasks += [task for shape in (stages[0], stages[2]) for task in op("mlp_grn", shape, 8)]
    tasks += [task for task in op("sparse_dwconv", stages[0])]
    tasks.append(group(model(scale, "tiny", "bfloat16", False, batch=1), wanted, scale.effort(LATENCY), 8))
    tasks += [task for name in ("grn", "layer_norm") for task in op(name, stages[0])]
    tasks += [task for task in op("patch_conv", Shape(64, 56, 56, 96, 192, 2))]
    tasks += [task for shape in (stages[1], stages[3]) for task in op("dwconv_layer_norm", shape)]
    tasks += [task for task in op("patch_conv", Shape(64, 224, 224, 3, 96, 4))]
    tasks += [task for task in op("sparse_dwconv", stages[2])]
    tasks += [group(BlockCase(stages[0], setting, backward), wanted, effort, 6) for backward in (False, True)]
    tasks.append(group(model(scale, "tiny", "amp", False), wanted, whole, 10))
    tasks.append(group(model(scale, "tiny", "bfloat16", False), compiled, whole, 40))
    tasks.append(group(model(scale, "tiny", "amp", True), compiled, whole, 60))
    tasks.append(group(pretraining(scale, "tiny"), (*compiled[:2], "masked-dense-compile"), whole, 60))
    tasks += [
        group(model(scale, "base", precision, back), wanted, whole, 15)
        for precision, back in (("bfloat16", False), ("amp", True))
    ]
    return [*tasks, group(pretraining(scale, "base"), (*together, "masked-dense"), whole, 20)]


def autotuned(scale: Scale) -> list[Task]:
    """torch.compile at its most patient."""
    if scale.dry:
        return []
    name = ("timm-max-autotune" if has_timm() else "max-autotune",)
    wanted = [("tiny", "bfloat16", False, 60), ("tiny", "amp", True, 90), ("base", "bfloat16", False, 90)]
    return [group(model(scale, *case), name, scale.effort(MODELS), needs) for *case, needs in wanted]


SECTIONS: dict[str, Callable[[Scale], list[Task]]] = {
    "ceilings": measured_ceilings,
    "peers": rivals,
    "ours": ours,
    "max-autotune": autotuned,
}


def device_lost(device: str) -> bool:
    """Whether an earlier error has made the CUDA context unusable: nothing will run in this process any more."""
    if device != "cuda":
        return False
    try:
        torch.cuda.synchronize()
    except Exception:
        return True
    return False


def execute(
    tasks: list[Task], done: set[str], deadline: float, device: str, emit: Callable[[dict[str, Any]], None]
) -> int:
    """Runs the tasks that are not done, and says so row by row. Returns the exit code."""
    emit({"plan": [name for task in tasks for name in task.keys]})
    for task in tasks:
        missing = [name for name in task.keys if name not in done]
        if not missing:
            continue
        left = deadline - time.time()
        if left < task.needs:
            for name in missing:
                reason = f"needs about {task.needs:.0f} s, {max(left, 0):.0f} s of this section's slice were left"
                emit({"row": split(name) | {"status": "skipped", "reason": reason}})
            continue
        emit({"begin": missing})
        began = time.time()
        try:
            rows = task.run(missing)
        except Exception as error:
            rows = [split(name) | {"status": "failed", "reason": one_line(error)} for name in missing]
        for row in rows:
            emit({"row": row | {"seconds": round(time.time() - began, 1)}})
        if device_lost(device):
            return EXIT_BROKEN
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    return 0


def matching(tasks: list[Task], pattern: str) -> list[Task]:
    """The tasks with those of their rows alone in which the pattern is found."""
    kept = [replace(task, keys=tuple(k for k in task.keys if re.search(pattern, k))) for task in tasks]
    return [task for task in kept if task.keys]


def warm(tasks: list[Task], deadline: float) -> int:
    """One call of what Triton has to compile for the tasks, into its cache on disk."""
    for task in tasks:
        if time.time() < deadline:
            task.warm(task.keys)
            gc.collect()
            torch.cuda.empty_cache()
    return 0


def split(name: str) -> Row:
    """A row's name and provider from its key."""
    first, _, second = name.partition(" / ")
    return {"name": first, "provider": second} if second else {"name": first}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--section", choices=SECTIONS, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--deadline", type=float, required=True, help="seconds since the epoch")
    parser.add_argument("--rows", default="", help="regular expression: only rows whose name / provider it finds")
    parser.add_argument("--warm", help="i/n: only compile for every n-th task, from the i-th")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--done", type=Path, help="JSON list of row keys that need not run")
    options = parser.parse_args()
    tasks = matching(SECTIONS[options.section](Scale(options.device, options.device == "cpu")), options.rows)
    if options.warm:
        i, n = map(int, options.warm.split("/"))
        return warm(tasks[i::n], options.deadline)
    if options.log is None or options.done is None:
        parser.error("--log and --done are needed")
    done = set(json.loads(options.done.read_text()))
    with options.log.open("a") as log:

        def emit(message: dict[str, Any]) -> None:
            log.write(json.dumps(message) + "\n")
            log.flush()

        if options.device == "cpu":
            torch.set_num_threads(1)  # a dry run: on a busy machine threads wait for each other
        torch.backends.cudnn.benchmark = True  # cuDNN chooses by trial: the peers at their best
        return execute(tasks, done, options.deadline, options.device, emit)


if __name__ == "__main__":
    raise SystemExit(main())
