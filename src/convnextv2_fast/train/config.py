"""What a run is told. Every option of `pretrain` and `finetune` is a field: its type, default, range and meaning.

The command line is made from these fields, under the same names, which are upstream's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from ..errors import TrainingError
from .options import (
    AMOUNT,
    BOOLEAN,
    COUNT,
    DEVICE,
    POSITIVE,
    SHARE,
    in_average,
    in_files,
    in_images,
    in_processes,
    in_steps,
    number,
    one_of,
    path,
    text,
)

Place = str | os.PathLike[str]
MODELS = tuple(f"convnextv2_{size}" for size in ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge"))
MOST_WORKERS = 10  # upstream's number of loader processes
AMP = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def workers() -> int:
    """Loader processes of each training process: upstream's 10, or fewer where the cores are not enough."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # set by torchrun: training processes on this machine
    return max(1, min(MOST_WORKERS, cores // here))


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The options of both tasks. A field without a value here gets its default from each task, or is required.

    A str is read as on the command line, so `model="tiny"` and `device="cuda"` are understood. Sizes are in pixels,
    shares lie between 0 and 1, and the schedule is counted in epochs.

    Raises:
        TrainingError: a value that its field does not take, or two fields that contradict each other.
    """

    data_path: Place
    data_set: str
    split: str = in_images("train", text("NAME"), "of a Hugging Face dataset")
    image_key: str = in_images("image", text("NAME"), "column of a Hugging Face dataset")
    label_key: str = in_images("label", text("NAME"))
    value_range: Sequence[float] | None = in_images(
        None,
        number(),
        "values that are black and white in images of more than 8 bits (default: by their type, where it tells)",
        several=2,
    )
    num_workers: int = in_images(workers, COUNT, "loader processes (default: one a core, at most 10); 0: none")
    pin_mem: bool = in_images(True, BOOLEAN, "page-locked memory, for GPUs")

    batch_size: int = in_steps(64, POSITIVE, "images a process and backward")
    update_freq: int = in_steps(1, POSITIVE, "batches that make an optimizer step")
    epochs: int
    lr: float | None = in_steps(None, AMOUNT, "learning rate; default: --blr x images of a step / 256")
    blr: float
    min_lr: float
    warmup_epochs: float
    weight_decay: float = in_steps(0.05, AMOUNT)
    clip_grad: float | None = in_steps(None, AMOUNT, "largest norm of the gradient (default: not clipped)")
    seed: int = in_steps(0, COUNT, "of weights, order, crops and masks")

    use_amp: bool = in_processes(False, BOOLEAN, "mixed precision")
    amp_dtype: str = in_processes("bfloat16", one_of("bfloat16", "float16"), "of --use_amp; float16 scales the loss")
    device: torch.device | str | None = in_processes(
        None, DEVICE, "cpu, cuda or cuda:1 (default: a GPU where there is one)"
    )
    parallel: str = in_processes(
        "ddp", one_of("ddp", "fsdp"), "under torchrun: whole copies, or weights sharded over the processes"
    )
    cuda_graph: bool = in_processes(True, BOOLEAN, "on a GPU, replay steps as CUDA graphs where they can be")
    grad_checkpointing: bool = in_processes(False, BOOLEAN, "compute activations twice instead of keeping them")

    model_ema: bool = in_average(False, BOOLEAN, "keep one")
    model_ema_decay: float = in_average(0.9999, SHARE)
    model_ema_force_cpu: bool = in_average(False, BOOLEAN, "keep it on the CPU")

    output_dir: Place = in_files(
        "", path("DIR"), "for checkpoints, log.txt and steps.jsonl. Without it nothing is saved"
    )
    log_dir: Place | None = in_files(None, path("DIR"), "for TensorBoard")
    resume: Place = in_files("", path("FILE"), "checkpoint to go on from")
    auto_resume: bool = in_files(True, BOOLEAN, "go on from the newest checkpoint in --output_dir")
    save_ckpt: bool = in_files(True, BOOLEAN, "save checkpoints")
    save_ckpt_freq: int = in_files(1, POSITIVE, "epochs between them")
    save_ckpt_steps: int = in_files(0, COUNT, "also every N steps within an epoch")
    save_ckpt_num: int = in_files(3, POSITIVE, "newest that are kept")
    start_epoch: int = in_files(0, COUNT, "where the schedule starts, without a checkpoint")
    log_freq: int = in_files(20, POSITIVE, "steps between readings of the loss")
    time_layers: int = in_files(0, COUNT, "time every block in N steps")

    def __post_init__(self) -> None:
        for f in fields(self):
            given = getattr(self, f.name)
            if given is None and f.default is None:
                continue
            try:  # a frozen dataclass sets its own fields in this way, too
                object.__setattr__(self, f.name, f.metadata["option"].value(given))
            except ValueError as error:
                raise TrainingError(f"{f.name} {error}") from None
        if self.value_range is not None and self.value_range[0] >= self.value_range[1]:
            low, high = self.value_range
            raise TrainingError(f"--value_range {low:g} {high:g}: the lower value comes first")
        if self.save_ckpt_steps and not self.output_dir:
            raise TrainingError("--save_ckpt_steps: checkpoints need a place: --output_dir")

    @property
    def amp(self) -> torch.dtype | None:
        """The dtype of mixed precision, where it is used."""
        return AMP[self.amp_dtype] if self.use_amp else None

    @property
    def pinned(self) -> bool:
        """Whether batches are put into page-locked memory, from which only GPUs are fed."""
        return self.pin_mem and torch.cuda.is_available()

    def images(self, processes: int) -> int:
        """Images of an optimizer step."""
        return self.batch_size * self.update_freq * processes

    def learning_rate(self, images: int) -> float:
        """The highest of the schedule, for steps of so many images."""
        return self.blr * images / 256 if self.lr is None else self.lr

    def warmup(self, per_epoch: int) -> float:
        """Epochs in which the learning rate rises, of so many steps each."""
        return self.warmup_epochs
