"""The loop that pre-training and fine-tuning share: steps, schedule, checkpoints, resuming, logging."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CaptureError, TrainingError
from ..graphs import TrainingStep
from . import advice, saving
from .config import TrainConfig
from .data import Batch, Steps
from .display import duration
from .finetune_config import FinetuneConfig
from .layers import LayerTimes, Timing
from .libraries import need
from .lock import output_folder
from .log import Log
from .losses import Losses
from .optim import cosine, set_learning_rate, set_weight_decay
from .parallel import Processes, bare, wrap
from .resume import Found, save, take_up
from .run import Run, Task
from .saving import Position

_STOPPING = b"\nstopping after this step (or evaluation); a second Ctrl-C stops at once\n"


def train(config: TrainConfig, task: Task, among: Processes, resumed: Found | None) -> dict[str, Any]:
    """Trains from the start, or from wherever a checkpoint stands, to the last epoch.

    Args:
        resumed: the checkpoint, of :func:`find`.
    Returns:
        The last epoch's record; empty where nothing was left to do.
    Raises:
        TrainingError: see its message.
    """
    Steps.count(task.epoch_samples, config.images(among.size))  # an error, before anything is written
    with output_folder(config, among) as folder:
        return _train(config, task, among, resumed, folder)


def _train(
    config: TrainConfig, task: Task, among: Processes, resumed: Found | None, folder: saving.Folder | None
) -> dict[str, Any]:
    images = config.images(among.size)
    per_epoch = Steps.count(task.epoch_samples, images)
    scaled_from = config.blr if config.lr is None else None
    config = replace(config, lr=config.learning_rate(images))
    if config.parallel == "fsdp" and config.amp == torch.float16:
        raise TrainingError("--parallel fsdp has no float16 loss scaling: take --amp_dtype bfloat16")
    model = task.model.to(among.device)
    ema = _ema(config, model)
    model = wrap(model, config.parallel, among)
    optimizer = task.make_optimizer(bare(model))
    # A scaler that does nothing outside float16 keeps one form of checkpoint.
    scaler = torch.amp.GradScaler(among.device.type, enabled=config.amp == torch.float16)
    steps = Steps(config.batch_size, config.update_freq, among, config.seed, config.epochs, per_epoch)
    steps = replace(steps, start=Position(config.start_epoch, 0))
    run = Run(config, task, among, steps, model, optimizer, scaler, ema, folder)
    run.scaled_from = scaled_from
    saving.seed(config.seed + among.rank)
    notes = [take_up(run, *resumed)] if resumed else []
    done = advice.nothing_to_do(run)
    if done:
        if among.first:
            print(done, file=sys.stderr, flush=True)
        return {}
    run.log = Log(
        folder.path if folder else None,
        Path(config.log_dir) if config.log_dir else None,
        among.first,
        run.steps.start,
        config.epochs * per_epoch,
        per_epoch,
        f"{task.name} {task.network.removeprefix('convnextv2_')}",
    )
    for text in [*notes, *advice.facts(run), *advice.warnings(run)]:
        run.log.say(text)
    try:
        return _epochs(run)
    except KeyboardInterrupt:
        run.log.say(advice.interrupted(run))
        raise
    finally:
        run.log.close()


def _ema(config: TrainConfig, model: nn.Module) -> Any:
    if not config.model_ema:
        return None
    if config.parallel == "fsdp":
        raise TrainingError("--model_ema keeps a whole copy of the weights; it does not go with --parallel fsdp")
    average = need("timm.utils").ModelEmaV3
    return average(model, decay=config.model_ema_decay, device="cpu" if config.model_ema_force_cpu else None)


def _epochs(run: Run) -> dict[str, Any]:
    config, s, began = run.config, run.steps, time.monotonic()
    batches = run.task.batches(s, dict(run.taken))
    record: dict[str, Any] = {}
    run.training = TrainingStep(
        run.model,
        run.task.loss,
        run.optimizer,
        scaler=run.scaler,
        ema=run.ema,
        accumulate=s.accumulate,
        clip_grad=config.clip_grad,
        autocast=config.amp,
        graphs=config.cuda_graph,
        say=run.log.say,
    )
    timing = Timing(bare(run.model), run.among.device, config.time_layers, run.log.say)
    with _asked_to_stop(run.among.size == 1) as stop:
        for epoch in range(s.start.epoch, s.epochs):
            run.model.train()
            resumed = epoch == s.start.epoch and s.start.step > 0
            if not resumed:
                run.taken.clear()
                run.carried = (0.0, 0)
            losses = Losses(run, epoch)
            for step in range(s.start.step if epoch == s.start.epoch else 0, s.per_epoch):
                at = Position(epoch, step + 1) if step + 1 < s.per_epoch else Position(epoch + 1, 0)
                _step(run, batches, epoch, step, losses, timing.next())
                due = config.save_ckpt_steps and (step + 1) % config.save_ckpt_steps == 0
                if at.step and (due or stop()):
                    run.carried = losses.flush()
                    save(run, at)
                if at.step and stop():
                    raise KeyboardInterrupt
            record = {"train_lr": losses.rate, "train_loss": losses.mean(), "epoch": epoch}
            record["n_parameters"] = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
            if run.unreadable:
                record["unreadable"] = len(run.unreadable)
            plain = int(run.among.total([run.plain])[0])
            if plain:
                record["not_augmented"] = plain
            record |= _evaluate(run, epoch)
            run.log.epoch(record)  # before the checkpoint: what comes after one is removed when it is taken up
            if (epoch + 1) % config.save_ckpt_freq == 0 or epoch + 1 == s.epochs or stop():
                save(run, Position(epoch + 1, 0))
            if stop() and epoch + 1 < s.epochs:
                raise KeyboardInterrupt
    timing.finish()
    run.log.say(advice.finished(run, duration(time.monotonic() - began)))
    if run.unsaved:
        raise TrainingError(run.unsaved)
    return record


def _step(run: Run, batches: Iterator[Batch], epoch: int, step: int, losses: Losses, timer: LayerTimes | None) -> None:
    """One optimizer step."""
    config, s = run.config, run.steps
    at = epoch + step / s.per_epoch
    rate = config.learning_rate(s.images)
    losses.rate = cosine(at, config.warmup(s.per_epoch), s.epochs, rate, config.min_lr)
    set_learning_rate(run.optimizer, losses.rate)
    if isinstance(config, FinetuneConfig) and config.weight_decay_end is not None:
        set_weight_decay(run.optimizer, cosine(at, 0, s.epochs, config.weight_decay, config.weight_decay_end))
    if timer is not None:
        timer.start()
    try:
        done = run.training(_parts(run, batches, epoch * s.per_epoch + step))
    except CaptureError as error:
        raise TrainingError(f"a step {error}: give --cuda_graph false") from error
    if timer is not None:
        timer.stop()
    losses.add(step, done.loss, done.grad_norm)


def _parts(run: Run, batches: Iterator[Batch], number: int) -> Iterator[Sequence[Any]]:
    """What the loss is given for each part of a step."""
    for part in range(run.steps.accumulate):
        batch = _received(run, next(batches), run.among.device)
        yield run.task.inputs(batch, number, run.steps.place(part))


def _received(run: Run, batch: Batch, device: torch.device) -> Batch:
    for name, reason in batch.failures:
        if name not in run.unreadable:
            run.unreadable.add(name)
            run.log.say(f"warning: unreadable image left out, {len(run.unreadable)} so far: {name}: {reason}")
    if batch.plain and not run.plain:
        name, reason = batch.plain[0]
        run.log.say(
            f"warning: {name} could not be augmented and was taken as it is: {reason}. That is said once; log.txt "
            "counts such images under not_augmented"
        )
    run.plain += len(batch.plain)
    if batch.taken is not None:
        run.taken[batch.taken[0]] = batch.taken[1]
    return batch.to(device)


def _evaluate(run: Run, epoch: int) -> dict[str, float]:
    """Metrics as `test_*`; the best checkpoints are written, too."""
    if run.task.evaluate is None:
        return {}
    record = {f"test_{k}": v for k, v in run.task.evaluate(bare(run.model), run.log.say).items()}
    candidates = [("", "best", record.get("test_acc1"))]
    if run.ema is not None and isinstance(run.config, FinetuneConfig) and run.config.model_ema_eval:
        averaged = {f"test_{k}_ema": v for k, v in run.task.evaluate(run.ema.module, run.log.say).items()}
        record |= averaged
        candidates.append(("_ema", "best-ema", averaged.get("test_acc1_ema")))
    for tail, name, accuracy in candidates:
        if accuracy is not None and accuracy > run.best.get(name, -1.0):
            run.best[name] = accuracy
            save(run, Position(epoch + 1, 0), f"checkpoint-{name}.pth", averaged=bool(tail))
        record[f"best_acc1{tail}"] = run.best.get(name, 0.0)
    values = "  ".join(f"{k.removeprefix('test_')} {v:.4g}" for k, v in record.items())
    run.log.say(f"epoch {epoch}: {values}")
    return record


@contextlib.contextmanager
def _asked_to_stop(alone: bool) -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM end a lone process after the step, with a checkpoint; a second one ends it at once. Of several
    processes, a signal would reach each at another step: they end at once, and go on from the last checkpoint."""
    asked: list[int] = []
    before: dict[int, Any] = {}

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        os.write(2, _STOPPING)  # a handler must not use the buffers that it may have interrupted

    if alone:
        with contextlib.suppress(ValueError):  # not the main thread
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, ask)
    try:
        yield lambda: bool(asked)
    finally:
        for changed, handler in before.items():
            signal.signal(changed, handler)
