"""The loop that pre-training and fine-tuning share: steps, schedule, checkpoints, resuming, logging."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import TrainingError, saving
from .data import Batch, Steps
from .layers import LayerTimes
from .log import Log, Record, duration
from .optim import cosine, set_learning_rate, set_weight_decay
from .parallel import Processes, bare, synchronised, wrap
from .saving import Position

AMP = {"float16": torch.float16, "bfloat16": torch.bfloat16}
BAD_STEPS = 20  # with a loss that is no number, in a row, that a scaler may skip


@dataclass
class Task:
    """What a command trains."""

    name: str
    model: nn.Module  # on the CPU
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    loss: Callable[[nn.Module, Batch, int, int], Tensor]  # called model, batch, step of the run, part of the step
    batches: Callable[[Steps, dict[int, int]], Iterator[Batch]]
    epoch_samples: int
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None


@dataclass
class Run:
    """A run's moving parts."""

    args: Any
    task: Task
    among: Processes
    steps: Steps
    model: nn.Module  # as it is called: wrapped
    optimizer: torch.optim.Optimizer
    scaler: Any
    ema: Any
    folder: saving.Folder | None
    log: Log
    unreadable: set[str] = field(default_factory=set)
    taken: dict[int, int] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    carried: tuple[float, int] = (0.0, 0)  # sum and number of the losses of an epoch that was cut off
    unsaved: str | None = None  # why the last checkpoint could not be written

    @property
    def amp(self) -> torch.dtype | None:
        return AMP[self.args.amp_dtype] if self.args.use_amp else None


def train(args: Any, task: Task, among: Processes) -> dict[str, Any]:
    """Trains from wherever the output folder's last checkpoint, or `--resume`, stands, to the last epoch.

    Returns:
        The last epoch's record.
    Raises:
        TrainingError: see its message.
    """
    images = args.batch_size * args.update_freq * among.size
    per_epoch = Steps.count(task.epoch_samples, images)
    if args.lr is None:
        args.lr = args.blr * images / 256
    folder = None
    if args.output_dir:
        folder = saving.Folder(Path(args.output_dir), args.save_ckpt_num)
        if among.first:
            folder.path.mkdir(parents=True, exist_ok=True)
            folder.tidy()
    if args.parallel == "fsdp" and args.use_amp and args.amp_dtype == "float16":
        raise TrainingError("--parallel fsdp has no float16 loss scaling: take --amp_dtype bfloat16")
    resumed = _find(args, folder, among)
    model = task.model.to(among.device)
    ema = _ema(args, model)
    model = wrap(model, args.parallel, among)
    optimizer = task.make_optimizer(bare(model))
    # A scaler that does nothing outside float16 keeps one form of checkpoint.
    scaler = torch.amp.GradScaler(among.device.type, enabled=args.use_amp and args.amp_dtype == "float16")
    steps = Steps(args.batch_size, args.update_freq, among, args.seed, args.epochs, per_epoch)
    steps = replace(steps, start=Position(args.start_epoch, 0))
    run = Run(args, task, among, steps, model, optimizer, scaler, ema, folder, None)  # type: ignore[arg-type]
    saving.seed(args.seed + among.rank)
    notes = [_take_up(run, *resumed)] if resumed else []
    run.log = Log(
        folder.path if folder else None,
        Path(args.log_dir) if args.log_dir else None,
        among.first,
        run.steps.start,
        args.epochs * per_epoch,
        per_epoch,
        f"{task.name} {args.model}",
    )
    for text in [*notes, *_facts(run)]:
        run.log.say(text)
    try:
        return _epochs(run)
    finally:
        run.log.close()


def _facts(run: Run) -> Iterator[str]:
    args, s = run.args, run.steps
    number = sum(p.numel() for p in run.model.parameters())
    where = f"{s.among.size} x {s.among.device.type}" if s.among.size > 1 else str(s.among.device)
    yield (
        f"{run.task.name}: {args.model}, {number / 1e6:.1f} M parameters; {run.task.epoch_samples} images, "
        f"{s.per_epoch} steps of {s.images} an epoch, {s.epochs} epochs; lr {args.lr:.3g}; {where}"
    )
    if 0 < args.epochs <= args.warmup_epochs:
        yield f"warning: --warmup_epochs {args.warmup_epochs} covers all --epochs {args.epochs}: the rate only rises"


def _ema(args: Any, model: nn.Module) -> Any:
    if not args.model_ema:
        return None
    if args.parallel == "fsdp":
        raise TrainingError("--model_ema keeps a whole copy of the weights; it does not go with --parallel fsdp")
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, decay=args.model_ema_decay, device="cpu" if args.model_ema_force_cpu else None)


# Checkpoints


def _find(args: Any, folder: saving.Folder | None, among: Processes) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to go on from: `--resume`, or the newest of the output folder. The first process decides."""
    chosen: Path | None = None
    content: dict[str, Any] | None = None
    problem: str | None = None
    if among.first:
        try:
            if args.resume:
                chosen, content = Path(args.resume), saving.read(Path(args.resume))
            elif folder is not None and args.auto_resume:
                newest = folder.newest(lambda text: print(f"warning: {text}", file=sys.stderr))
                if newest is not None:
                    chosen, content = newest
        except TrainingError as error:
            problem = str(error)
    chosen, problem = among.from_first((chosen, problem))
    if problem:
        raise TrainingError(problem)
    if chosen is None:
        return None
    return chosen, saving.read(chosen) if content is None else content


def _take_up(run: Run, path: Path, content: dict[str, Any]) -> str:
    """Loads a checkpoint and sets the start; returns what to say of it."""
    state, args = content.get("run") or {}, run.args
    if state and state["task"] != run.task.name:
        raise TrainingError(f"{path}: was written by {state['task']}, and cannot be resumed by {run.task.name}")
    if "optimizer" not in content:
        raise TrainingError(f"{path}: holds weights only, nothing to resume; training starts from weights by --finetune")
    saving.load_model_state(run.model, content["model"], path)
    try:
        saving.load_optimizer_state(run.model, run.optimizer, content["optimizer"])
    except (ValueError, KeyError, RuntimeError) as error:
        raise TrainingError(f"{path}: its optimizer is not this run's: {saving.first_line(error)}") from error
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
        for name in ("batch_size", "update_freq", "seed", "input_size", "mask_ratio", "blr", "lr", "epochs", "num_workers")
        if name in content["args"] and content["args"][name] != getattr(args, name, None)
    ]
    if len(state["random"]) != run.among.size:
        changed.append(f"processes {len(state['random'])} -> {run.among.size}")
    return said + (f", with other arguments: {', '.join(changed)}" if changed else "")


def _save(run: Run, at: Position, name: str | None = None) -> None:
    """All processes together. A full disk is not the end of a run: it is said, and tried again at the next time."""
    if run.folder is None or not run.args.save_ckpt:
        return
    model, optimizer = saving.model_state(run.model), saving.optimizer_state(run.model, run.optimizer)
    mine = (saving.random_state(run.among.device), run.taken if at.step else {}, sorted(run.unreadable))
    everybody = run.among.gather(mine)
    if not run.among.first:
        return
    run.unreadable.update(name for _, _, names in everybody for name in names)
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


# Steps


def _epochs(run: Run) -> dict[str, Any]:
    args, s, began = run.args, run.steps, time.monotonic()
    batches = run.task.batches(s, dict(run.taken))
    record: dict[str, Any] = {}
    timing = _Timing(run)
    with _asked_to_stop(run.among.size == 1) as stop:
        for epoch in range(s.start.epoch, s.epochs):
            run.model.train()
            resumed = epoch == s.start.epoch and s.start.step > 0
            if not resumed:
                run.taken.clear()
                run.carried = (0.0, 0)
            losses = _Losses(run, epoch)
            for step in range(s.start.step if epoch == s.start.epoch else 0, s.per_epoch):
                at = Position(epoch, step + 1) if step + 1 < s.per_epoch else Position(epoch + 1, 0)
                _step(run, batches, epoch, step, losses, timing.next())
                due = args.save_ckpt_steps and (step + 1) % args.save_ckpt_steps == 0
                if at.step and (due or stop()):
                    run.carried = losses.flush()
                    _save(run, at)
                if at.step and stop():
                    raise KeyboardInterrupt
            record = {"train_lr": losses.rate, "train_loss": losses.mean(), "epoch": epoch}
            record["n_parameters"] = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
            if run.unreadable:
                record["unreadable"] = len(run.unreadable)
            record |= _evaluate(run, epoch)
            run.log.epoch(record)  # before the checkpoint: what comes after one is removed when it is taken up
            if (epoch + 1) % args.save_ckpt_freq == 0 or epoch + 1 == s.epochs or stop():
                _save(run, Position(epoch + 1, 0))
            if stop():
                raise KeyboardInterrupt
    run.log.say(f"{run.task.name}: done in {duration(time.monotonic() - began)}")
    if run.unsaved:
        raise TrainingError(run.unsaved)
    return record


def _step(
    run: Run, batches: Iterator[Batch], epoch: int, step: int, losses: _Losses, timer: LayerTimes | None
) -> None:
    """One optimizer step."""
    args, s, device = run.args, run.steps, run.among.device
    at = epoch + step / s.per_epoch
    warmup = args.warmup_steps / s.per_epoch if getattr(args, "warmup_steps", 0) > 0 else args.warmup_epochs
    losses.rate = cosine(at, warmup, s.epochs, args.lr, args.min_lr)
    set_learning_rate(run.optimizer, losses.rate)
    if getattr(args, "weight_decay_end", None) is not None:
        set_weight_decay(run.optimizer, cosine(at, 0, s.epochs, args.weight_decay, args.weight_decay_end))
    total = None
    received = [_received(run, next(batches), device) for _ in range(s.accumulate)]
    if timer is not None:
        timer.start()
    for part, batch in enumerate(received):
        amp = torch.autocast(device.type, dtype=run.amp) if run.amp else contextlib.nullcontext()
        with synchronised(run.model, part == s.accumulate - 1):
            with amp:
                loss = run.task.loss(run.model, batch, epoch * s.per_epoch + step, part)
            run.scaler.scale(loss / s.accumulate).backward()
        total = loss.detach() if total is None else total + loss.detach()
    norm = None
    if args.clip_grad:
        run.scaler.unscale_(run.optimizer)
        norm = nn.utils.clip_grad_norm_(run.model.parameters(), args.clip_grad)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    if run.ema is not None:
        run.ema.update(bare(run.model))
    if timer is not None:
        timer.stop()
    losses.add(step, total / s.accumulate, norm)


def _received(run: Run, batch: Batch, device: torch.device) -> Batch:
    for name, reason in batch.failures:
        if name not in run.unreadable:
            run.unreadable.add(name)
            run.log.say(f"warning: unreadable image left out, {len(run.unreadable)} so far: {name}: {reason}")
    if batch.taken is not None:
        run.taken[batch.taken[0]] = batch.taken[1]
    return batch.to(device)


class _Losses:
    """Losses of an epoch's steps. They stay on the device until `log_freq` of them are read back together."""

    def __init__(self, run: Run, epoch: int) -> None:
        self.run, self.epoch, self.rate = run, epoch, 0.0
        self.waiting: list[tuple[int, float, Tensor, Tensor | None]] = []
        self.sum, self.count = run.carried
        self.bad, self.since = 0, time.monotonic()

    def add(self, step: int, loss: Tensor, norm: Tensor | None) -> None:
        self.waiting.append((step, self.rate, loss.float(), norm))
        if len(self.waiting) >= self.run.args.log_freq:
            self.flush()

    def flush(self) -> tuple[float, int]:
        """Reads back, writes down and judges; returns the epoch's sum and number of losses so far.

        Raises:
            TrainingError: a loss is no number.
        """
        if not self.waiting:
            return self.sum, self.count
        run, first = self.run, self.epoch * self.run.steps.per_epoch
        values = run.among.mean(torch.stack([loss for _, _, loss, _ in self.waiting])).tolist()
        norms = [None if n is None else float(n) for _, _, _, n in self.waiting]
        records: list[Record] = []
        for (step, rate, _, _), loss, norm in zip(self.waiting, values, norms, strict=True):
            records.append({"step": first + step, "epoch": self.epoch, "loss": loss, "lr": rate})
            if norm is not None:
                records[-1]["grad_norm"] = norm
            self.bad = 0 if math.isfinite(loss) else self.bad + 1
            if self.bad > (BAD_STEPS if run.scaler.is_enabled() else 0):
                raise TrainingError(
                    f"the loss is {loss} at epoch {self.epoch}, step {step}; the last checkpoint is from before. "
                    "A lower --blr, --clip_grad 1, or for pre-training --init std02 may help; "
                    "float16 overflows sooner than --amp_dtype bfloat16"
                )
            self.sum += loss
            self.count += 1
        now = time.monotonic()
        run.log.steps(records, len(records) * run.steps.images / max(now - self.since, 1e-9))
        self.waiting, self.since = [], now
        return self.sum, self.count

    def mean(self) -> float:
        """Of the epoch's steps."""
        self.flush()
        return self.sum / max(self.count, 1)


def _evaluate(run: Run, epoch: int) -> dict[str, float]:
    """Metrics as `test_*`; the best checkpoints are written, too."""
    if run.task.evaluate is None:
        return {}
    record = {f"test_{k}": v for k, v in run.task.evaluate(bare(run.model)).items()}
    candidates = [("", "best", record.get("test_acc1"))]
    if run.ema is not None and run.args.model_ema_eval:
        averaged = {f"test_{k}_ema": v for k, v in run.task.evaluate(run.ema.module).items()}
        record |= averaged
        candidates.append(("_ema", "best-ema", averaged.get("test_acc1_ema")))
    for tail, name, accuracy in candidates:
        if accuracy is not None and accuracy > run.best.get(name, -1.0):
            run.best[name] = accuracy
            _save(run, Position(epoch + 1, 0), f"checkpoint-{name}.pth")
        record[f"best_acc1{tail}"] = run.best.get(name, 0.0)
    values = "  ".join(f"{k.removeprefix('test_')} {v:.4g}" for k, v in record.items())
    run.log.say(f"epoch {epoch}: {values}")
    return record


class _Timing:
    """Of the layers, in `--time_layers` steps after the first few, which are slower."""

    FIRST = 3

    def __init__(self, run: Run) -> None:
        self.run, self.done, self.timer = run, 0, None

    def next(self) -> LayerTimes | None:
        """What times the next step."""
        wanted = self.run.args.time_layers
        if wanted and self.done == self.FIRST:
            self.timer = LayerTimes(bare(self.run.model), self.run.among.device)
        elif self.timer is not None and self.done == self.FIRST + wanted:
            self.timer.remove()
            self.run.log.say(f"milliseconds a step, mean of {self.timer.steps}:\n{self._table(self.timer)}")
            self.timer = None
        self.done += 1
        return self.timer

    @staticmethod
    def _table(timer: LayerTimes) -> str:
        rows = timer.table()
        width = max(len(row["part"]) for row in rows)
        return "\n".join(
            f"  {row['part']:<{width}}" + "".join(f"  {v:9.3f} {k}" for k, v in row.items() if k != "part") for row in rows
        )


@contextlib.contextmanager
def _asked_to_stop(alone: bool) -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM end a lone process after the step, with a checkpoint. Of several, a signal would reach each at
    another step: they end at once, and go on from the last checkpoint."""
    asked: list[int] = []
    before: dict[int, Any] = {}
    if alone:
        with contextlib.suppress(ValueError):  # not the main thread
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, lambda n, _: asked.append(n))
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
