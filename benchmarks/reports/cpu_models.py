"""The parts of the CPU report that time whole models: each provider alone in processes of its own, in turn."""

from __future__ import annotations

import torch

from convnextv2_fast import library
from convnextv2_fast.bench import alone
from convnextv2_fast.bench.timing import Timing, rotated
from convnextv2_fast.bench.worker import Turn

from ..suite.apart import AloneCase, contender, measure_apart
from ..suite.cases import Setting
from ..suite.module_cases import FcmaeCase, ModelCase
from .naming import published
from .program import Run

INFERENCE = (("atto", 1), ("femto", 1), ("nano", 1), ("base", 1), ("tiny", 8))
PAIRED = (("atto", 1), ("base", 1), ("tiny", 8))  # in bfloat16
BESIDE = (("atto", 1), ("base", 1))  # a busy process
TRAINING = (("atto", 8), ("tiny", 4))
PRETRAINING = (("atto", 8), ("tiny", 4))
INITS = ("std02", "upstream")
SIZES = ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge")
SERVED = ("fast-cpu", "fast-frozen", "eager", "compile", "onnxruntime", "openvino")
UNCOMPILED = tuple(name for name in SERVED if name != "compile")
TRAINED = ("fast-cpu", "eager", "channels_last", "compile")
TIMM = ("timm-accelerated", "timm", "timm-compile")
DENSE = ("fast-cpu", "masked-dense", "masked-dense-compile")
SERVERS = ("fast-cpu", "fast-frozen", "eager")
TURNS, QUICK_TURNS = 5, 2
TURN, QUICK_TURN = Turn(max_seconds=2.0), Turn(max_seconds=0.5)


def group(
    run: Run,
    part: str,
    case: AloneCase,
    names: tuple[str, ...],
    quick: bool,
    *,
    neighbour: bool = False,
) -> None:
    """One case as rows. What cannot run here is printed, and is no row. A quick group compiles nothing."""
    wanted = [name for name in names if not (quick and "compile" in name)]
    turns, turn = (QUICK_TURNS, QUICK_TURN) if quick else (TURNS, TURN)
    for name, outcome in measure_apart(case, wanted, turns=turns, turn=turn, neighbour=neighbour).items():
        if outcome.timing is None:
            print(f"  {case.name} {name}: {outcome.status}: {outcome.reason}", flush=True)
            continue
        provider, mode = published(name)
        figures = {key: outcome.info[key] for key in ("gb_per_s", "roofline_share", "settings")}
        columns = {"case": case.what, "provider": provider, "mode": mode, "batch": case.batch}
        columns |= {"dtype": case.setting.precision, "rel_error": outcome.info["max_relative_error"]}
        run.record(part, name, outcome.timing, peer=provider, figures=figures, counted="turns", **columns)


def _multiplies_bfloat16() -> bool:
    """Elsewhere a step under autocast takes minutes: nothing there multiplies bfloat16 fast."""
    return library.cpu_isa() in ("avx512_bf16", "amx")


def inference(run: Run, quick: bool) -> None:
    """Five cases in float32, three of them in bfloat16 where the CPU multiplies that; all runtimes."""
    for size, batch in INFERENCE[: 1 if quick else None]:
        group(run, "inference", ModelCase(size, batch, Setting("cpu", "float32")), SERVED, quick)
    if _multiplies_bfloat16() and not quick:
        for size, batch in PAIRED:
            group(run, "inference", ModelCase(size, batch, Setting("cpu", "bfloat16")), SERVED, quick)


def neighbour(run: Run, quick: bool) -> None:
    """Two cases beside a busy process."""
    for size, batch in BESIDE[: 1 if quick else None]:
        case = ModelCase(size, batch, Setting("cpu", "float32"))
        group(run, "neighbour", case, SERVED, quick, neighbour=True)


def small(run: Run, quick: bool) -> None:
    """A call that computes little: atto on one image of 32 pixels."""
    group(run, "small", ModelCase("atto", 1, Setting("cpu", "float32"), resolution=32), SERVED, quick)


def sizes(run: Run, quick: bool) -> None:
    """Every size at batch 1 and 8. Without torch.compile: compiling sixteen cases afresh in every turn takes hours, and
    it was not the fastest rival in any case of `inference`."""
    for batch in (1,) if quick else (1, 8):
        for size in SIZES[: 2 if quick else 8]:
            group(run, "sizes", ModelCase(size, batch, Setting("cpu", "float32")), UNCOMPILED, quick)


def training(run: Run, quick: bool) -> None:
    """Forward, cross entropy, backward; tiny also as timm's model, accelerated and not; that also under autocast, if
    the CPU multiplies bfloat16."""
    for size, batch in TRAINING[: 1 if quick else 2]:
        names = TRAINED if size == "atto" else (*TRAINED, *TIMM)
        group(run, "training", ModelCase(size, batch, Setting("cpu", "float32"), backward=True), names, quick)
    if _multiplies_bfloat16() and not quick:
        size, batch = TRAINING[1]
        group(run, "training", ModelCase(size, batch, Setting("cpu", "amp"), backward=True), TIMM, quick)


def pretraining(run: Run, quick: bool) -> None:
    """An FCMAE step, 60 % of the patches removed, beside dense convolutions times the mask; at both initialisations."""
    for init in INITS:
        for size, batch in PRETRAINING[: 1 if quick else 2]:
            group(run, "pretraining", FcmaeCase(size, batch, Setting("cpu", "float32"), init=init), DENSE, quick)


def servers(run: Run, quick: bool) -> None:
    """Milliseconds per image, over all processes and threads that call at the same time. Nobody waits for anybody: each
    caller begins its next image when it has the last one."""
    threads = torch.get_num_threads()
    all_threads = f"{threads} thread{'s' if threads > 1 else ''}"
    arrangements = {  # processes, threads of each, callers in each
        "1 caller, 1 thread": (1, 1, 1),
        f"1 caller, {all_threads}": (1, threads, 1),
        "2 processes of 2 threads": (2, 2, 1),
        f"8 callers, {all_threads}": (1, threads, 8),
    }
    turn = Turn(max_seconds=1.0 if quick else 4.0)
    for size in ("atto",) if quick else ("atto", "tiny"):
        case = ModelCase(size, 1, Setting("cpu", "float32"))
        taken = {(name, how): Timing() for name in SERVERS for how in arrangements}
        with alone.folder() as shared:
            for name in SERVERS:
                answer = alone.ask(contender(case, name).request("check", shared))
                if "error" in answer:
                    print(f"  {case.name} {name}: {answer['error']}", flush=True)
                    taken = {key: timing for key, timing in taken.items() if key[0] != name}
            for number in range(1 if quick else TURNS):
                for name, how in rotated(list(taken), number):
                    processes, each, callers = arrangements[how]
                    found = alone.throughput(
                        contender(case, name), shared, processes=processes, threads=each, callers=callers, turn=turn
                    )
                    if isinstance(found, str):
                        print(f"  {case.name} {name}, {how}: {found}", flush=True)
                    else:
                        taken[name, how].seconds.append(1 / found)
        for (name, how), timing in taken.items():
            if timing.seconds:
                provider, mode = published(name)
                columns = {"case": case.what, "provider": provider, "mode": f"{mode}, {how}", "batch": 1}
                run.record("servers", f"{name}, {how}", timing, counted="turns", dtype="float32", **columns)
