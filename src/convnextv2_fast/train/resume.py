"""From a run to its checkpoint, and back to where it stood."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..checkpoints.contents import contents
from ..checkpoints.convert import canonicalise
from ..checkpoints.files import first_line
from ..errors import CheckpointError, TrainingError
from . import labelled, saving
from .config import TrainConfig
from .options import declared
from .parallel import Processes
from .run import Run
from .saving import Position

# Of a resumed run's arguments those that may change in silence: where things lie, what is written and how often, and
# how the same numbers are computed. A recipe's values are told one by one.
UNTOLD = {"output_dir", "log_dir", "log_freq", "resume", "auto_resume", "start_epoch", "recipe", "details", "model_key"}
UNTOLD |= {"save_ckpt", "save_ckpt_freq", "save_ckpt_steps", "save_ckpt_num", "time_layers", "device", "pin_mem"}
UNTOLD |= {"cuda_graph", "grad_checkpointing", "parallel", "model_ema_force_cpu", "eval", "dist_eval"}
SHAPING = ("model", "in_chans", "nb_classes", "patch_size", "decoder_depth", "decoder_embed_dim")  # of the tensors


HELD: dict[str, tuple[type, ...]] = {  # what a run writes beside its position, and may lack
    **{"best": (dict,), "plain": (int,)},
    **dict.fromkeys(("unreadable", "losses", "random", "taken"), (list, tuple)),
}


Found = tuple[Path, dict[str, Any]]  # a checkpoint, and its content


def find(config: TrainConfig, among: Processes) -> Found | None:
    """The checkpoint to go on from: `--resume`, or the newest of the output folder. The first process decides.

    Processes that torchrun has started again want the newest, if there is one."""
    chosen: Path | None = None
    content: dict[str, Any] | None = None
    problem: str | None = None
    if among.first:
        try:
            again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
            newest = None
            folder = saving.Folder(Path(config.output_dir), config.save_ckpt_num) if config.output_dir else None
            if folder is not None and config.auto_resume and (again or not config.resume):
                newest = folder.newest(lambda text: print(f"warning: {text}", file=sys.stderr))
            if newest is not None:
                chosen, content = newest
            elif config.resume:
                chosen, content = Path(config.resume), saving.read(Path(config.resume))
        except TrainingError as error:
            problem = str(error)
    chosen, problem = among.from_first((chosen, problem))
    if problem:
        raise TrainingError(problem)
    if chosen is None:
        return None
    return chosen, saving.read(chosen) if content is None else content


def take_up(run: Run, path: Path, content: dict[str, Any]) -> str:
    """Loads a checkpoint and sets the start; returns what to say of it."""
    state = content.get("run") or {}
    if not isinstance(state, dict):
        raise TrainingError(f"{path}: its 'run' is a {type(state).__name__}, not a table, so it cannot be resumed")
    if state and state.get("task") != run.task.name:
        raise TrainingError(f"{path}: was written by {state.get('task')}, and cannot be resumed by {run.task.name}")
    if "optimizer" not in content:
        raise TrainingError(f"{path}: holds weights only, nothing to resume; weights are for --finetune")
    held = saving.arguments(content)
    if content.get("classes") and run.task.classes:
        labelled.check_names(str(path), content["classes"], "the images", run.task.classes)
    try:
        saving.load_model_state(run.model, content["model"], path)
    except TrainingError as error:
        if not run.among.first:
            raise TrainingError(f"{path} holds another model; process 0 says more") from error
        raise TrainingError(_other_model(error, run, path, content["model"], held)) from error
    run.resumed = path
    try:
        saving.load_optimizer_state(run.model, run.optimizer, content["optimizer"])
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise TrainingError(f"{path}: its optimizer is not this run's: {first_line(error)}") from error
    if content.get("scaler") and run.scaler.is_enabled():
        run.scaler.load_state_dict(content["scaler"])
    if run.ema is not None:
        run.ema.module.load_state_dict(content.get("model_ema") or content["model"])
    said = f"resumed from {path}"
    if not state:  # upstream's own: whole epochs, no random states
        if not _counts(content.get("epoch")):
            raise TrainingError(f"{path}: does not say after which epoch it was written, so it cannot be resumed")
        run.steps = replace(run.steps, start=Position(content["epoch"] + 1, 0))
        return said
    lacking = [key for key in ("epoch", "step", "per_epoch", "images") if not _counts(state.get(key))]
    if lacking:
        raise TrainingError(f"{path}: does not say where its run stood ({', '.join(lacking)}), so it cannot be resumed")
    odd = [key for key, kinds in HELD.items() if state.get(key) is not None and not isinstance(state[key], kinds)]
    if odd:
        kind = type(state[odd[0]]).__name__
        raise TrainingError(f"{path}: its {odd[0]!r} is a {kind}, which no run writes, so it cannot be resumed")
    step, per_epoch = state["step"], state["per_epoch"]
    if state["images"] != run.steps.images:
        step = step * state["images"] // run.steps.images
    elif per_epoch != run.steps.per_epoch:
        said += f"; the data has {run.steps.per_epoch} steps an epoch now, it had {per_epoch}"
    epoch = state["epoch"] + (step >= run.steps.per_epoch)  # an epoch can have become shorter
    step = 0 if step >= run.steps.per_epoch else step
    run.steps = replace(run.steps, start=Position(epoch, step))
    run.best, run.unreadable = dict(state.get("best") or {}), set(state.get("unreadable") or ())
    run.carried = tuple(state.get("losses") or (0.0, 0))
    run.plain = state.get("plain", 0) if run.among.first else 0
    said += _take_up_processes(run, state, step)
    told = [name for name in declared(fields(run.config)) if name not in UNTOLD]
    changed = [f"{name} {_shown(old)} -> {_shown(new)}" for name, old, new in _changes(told, held, run.config)]
    held_by = len(state.get("random") or ())
    if held_by not in (0, run.among.size):
        changed.append(f"processes {held_by} -> {run.among.size}")
    return said + (f", with other arguments: {', '.join(changed)}" if changed else "")


def _counts(value: Any) -> bool:
    """Whether it is a number of epochs, steps or images."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _take_up_processes(run: Run, state: dict[str, Any], step: int) -> str:
    """Random states and places in streams, which a checkpoint holds of each process; returns what to say of them."""
    random, taken, rank = state.get("random") or [], state.get("taken") or [], run.among.rank
    if len(taken) == run.among.size:
        run.taken = dict(taken[rank]) if step else {}
    why = "it holds no random states" if not random else ""
    if len(random) == run.among.size:
        try:
            saving.restore_random_state(random[rank], run.among.device)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            why = f"its random states cannot be used ({first_line(error)})"
    return f"; {why}, so random numbers start again from the seed" if why else ""


def _changes(names: Sequence[str], held: dict[str, Any], config: TrainConfig) -> list[tuple[str, Any, Any]]:
    now = _plain(config)  # as they are held
    pairs = [(name, held[name], now[name]) for name in names if name in held and name in now]
    # Older checkpoints hold lists as text.
    return [(name, old, new) for name, old, new in pairs if old != new and str(old) != str(new)]


def _shown(value: Any) -> str:
    return str(value) if value != "" else "(none)"


def _other_model(error: TrainingError, run: Run, path: Path, state: dict[str, Any], held: dict[str, Any]) -> str:
    """Three lines: what the checkpoint holds, what the run has, what to do."""
    changed = _changes(SHAPING, held, run.config)
    options = " ".join(f"--{name} {old}" for name, old, _ in changed)
    advice = f"give what it was trained with ({options})" if options else "take a checkpoint of this model"
    advice = f"{advice} to resume it, or another --output_dir to start a new run"
    try:
        theirs = contents(canonicalise(state))
        ours = contents(canonicalise(run.task.model.state_dict()))
    except CheckpointError:
        return f"{error}\n{advice}"
    first = str(error) if theirs == ours else f"{path}: holds another model than this run's: {theirs}"
    return f"{first}\nthis run's model is {ours}\n{advice}"


def save(run: Run, at: Position, name: str | None = None, averaged: bool = False) -> None:
    """All processes together. A full disk is not the end of a run: it is said, and tried again at the next time."""
    if run.folder is None or not run.config.save_ckpt:
        return
    model, optimizer = saving.model_state(run.model), saving.optimizer_state(run.model, run.optimizer)
    mine = (saving.random_state(run.among.device), run.taken if at.step else {}, sorted(run.unreadable), run.plain)
    everybody = run.among.gather(mine)
    if not run.among.first:
        return
    for name in sorted({name for _, _, names, _ in everybody for name in names} - run.unreadable):
        run.log.say(f"warning: unreadable image left out by another process: {name}")
        run.unreadable.add(name)
    content = {
        "model": model,
        "optimizer": optimizer,
        "scaler": run.scaler.state_dict(),
        "epoch": at.epoch - 1,  # the last whole one, as upstream
        "args": _plain(run.config),
        "run": {
            "task": run.task.name,
            "epoch": at.epoch,
            "step": at.step,
            "per_epoch": run.steps.per_epoch,
            "images": run.steps.images,
            "random": [random for random, *_ in everybody],
            "taken": [taken for _, taken, *_ in everybody],
            "unreadable": sorted(run.unreadable),
            "plain": sum(plain for *_, plain in everybody),
            "best": run.best,
            "losses": run.carried if at.step else (0.0, 0),
        },
    }
    if averaged:  # it is the moving average for whose sake the file is written
        content["chosen"] = "model_ema"
    if run.task.classes:
        content["classes"] = list(run.task.classes)
    if run.ema is not None:
        content["model_ema"] = run.ema.module.state_dict()
    try:
        if name is not None:
            saving.write(content, run.folder.path / name)
        else:
            run.saved = run.folder.save(content, at)
            run.unsaved = None
    except TrainingError as error:
        run.unsaved = str(error)
        run.log.say(f"error: {error}; training continues")


def _plain(config: TrainConfig) -> dict[str, Any]:
    """Options as values that may be read without running code."""
    plain = (str, int, float, bool, list, type(None))
    return {name: value if isinstance(value, plain) else str(value) for name, value in vars(config).items()}
