"""From a run to its checkpoint, and back to where it stood."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoints.files import first_line
from . import TrainingError, saving
from .parallel import Processes
from .run import Run
from .saving import Position

# Arguments that change what a resumed run does; it says so.
TOLD = ("batch_size", "update_freq", "seed", "input_size", "mask_ratio", "blr", "lr", "epochs", "num_workers")


def find(args: Any, folder: saving.Folder | None, among: Processes) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to go on from: `--resume`, or the newest of the output folder. The first process decides.

    Processes that torchrun has started again want the newest, if there is one."""
    chosen: Path | None = None
    content: dict[str, Any] | None = None
    problem: str | None = None
    if among.first:
        try:
            again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
            newest = None
            if folder is not None and args.auto_resume and (again or not args.resume):
                newest = folder.newest(lambda text: print(f"warning: {text}", file=sys.stderr))
            if newest is not None:
                chosen, content = newest
            elif args.resume:
                chosen, content = Path(args.resume), saving.read(Path(args.resume))
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
    state, args = content.get("run") or {}, run.args
    if state and state["task"] != run.task.name:
        raise TrainingError(f"{path}: was written by {state['task']}, and cannot be resumed by {run.task.name}")
    if "optimizer" not in content:
        raise TrainingError(f"{path}: holds weights only, nothing to resume; weights are for --finetune")
    saving.load_model_state(run.model, content["model"], path)
    try:
        saving.load_optimizer_state(run.model, run.optimizer, content["optimizer"])
    except (ValueError, KeyError, RuntimeError) as error:
        raise TrainingError(f"{path}: its optimizer is not this run's: {first_line(error)}") from error
    if content.get("scaler") and run.scaler.is_enabled():
        run.scaler.load_state_dict(content["scaler"])
    if run.ema is not None:
        run.ema.module.load_state_dict(content.get("model_ema") or content["model"])
    said = f"resumed from {path}"
    if not state:  # upstream's own: whole epochs, no random states
        run.steps = replace(run.steps, start=Position(int(content["epoch"]) + 1, 0))
        return said
    step, per_epoch = state["step"], state["per_epoch"]
    if state["images"] != run.steps.images:
        step = step * state["images"] // run.steps.images
    elif per_epoch != run.steps.per_epoch:
        said += f"; the data has {run.steps.per_epoch} steps an epoch now, it had {per_epoch}"
    epoch = state["epoch"] + (step >= run.steps.per_epoch)  # an epoch can have become shorter
    step = 0 if step >= run.steps.per_epoch else step
    run.steps = replace(run.steps, start=Position(epoch, step))
    run.best, run.unreadable, run.carried = dict(state["best"]), set(state["unreadable"]), tuple(state["losses"])
    if len(state["random"]) == run.among.size:
        saving.restore_random_state(state["random"][run.among.rank], run.among.device)
        run.taken = dict(state["taken"][run.among.rank]) if step else {}
    changed = [
        f"{name} {content['args'][name]} -> {getattr(args, name)}"
        for name in TOLD
        if name in content["args"] and content["args"][name] != getattr(args, name, None)
    ]
    if len(state["random"]) != run.among.size:
        changed.append(f"processes {len(state['random'])} -> {run.among.size}")
    return said + (f", with other arguments: {', '.join(changed)}" if changed else "")


def save(run: Run, at: Position, name: str | None = None) -> None:
    """All processes together. A full disk is not the end of a run: it is said, and tried again at the next time."""
    if run.folder is None or not run.args.save_ckpt:
        return
    model, optimizer = saving.model_state(run.model), saving.optimizer_state(run.model, run.optimizer)
    mine = (saving.random_state(run.among.device), run.taken if at.step else {}, sorted(run.unreadable))
    everybody = run.among.gather(mine)
    if not run.among.first:
        return
    for name in sorted({name for _, _, names in everybody for name in names} - run.unreadable):
        run.log.say(f"warning: unreadable image left out by another process: {name}")
        run.unreadable.add(name)
    content = {
        "model": model,
        "optimizer": optimizer,
        "scaler": run.scaler.state_dict(),
        "epoch": at.epoch - 1,  # the last whole one, as upstream
        "args": _plain(vars(run.args)),
        "run": {
            "task": run.task.name,
            "epoch": at.epoch,
            "step": at.step,
            "per_epoch": run.steps.per_epoch,
            "images": run.steps.images,
            "random": [random for random, _, _ in everybody],
            "taken": [taken for _, taken, _ in everybody],
            "unreadable": sorted(run.unreadable),
            "best": run.best,
            "losses": run.carried if at.step else (0.0, 0),
        },
    }
    if run.ema is not None:
        content["model_ema"] = run.ema.module.state_dict()
    try:
        if name is not None:
            saving.write(content, run.folder.path / name)
        else:
            run.folder.save(content, at)
            run.unsaved = None
    except TrainingError as error:
        run.unsaved = str(error)
        run.log.say(f"error: {error}; training goes on")


def _plain(args: dict[str, Any]) -> dict[str, Any]:
    """Arguments as values that may be read without running code."""
    plain = (str, int, float, bool, type(None))
    return {k: v if isinstance(v, plain) else str(v) for k, v in args.items() if not callable(v)}
