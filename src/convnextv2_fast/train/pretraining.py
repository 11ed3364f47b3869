"""FCMAE pre-training: upstream's `main_pretrain.py`, on any number of processes."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..models import fcmae
from . import data, images, optim, streams, tables
from .data import Augment, Batch, Steps
from .hub import HubTable
from .libraries import torchvision_transforms
from .loop import train
from .parallel import processes
from .pretrain_config import PretrainConfig
from .resume import find
from .run import MakeBatches, Task

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def mean_and_std(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """ImageNet's for RGB; a half and a quarter for anything else."""
    return IMAGENET if channels == 3 else ((0.5,) * channels, (0.25,) * channels)


def transform(size: int, channels: int) -> Augment:
    """Upstream's: a random crop of 20 to 100 % of the area, resized to `size` (bicubic), and a random flip. Images that
    are smaller than that are enlarged. Where that fails, the middle of the resized image."""
    t = torchvision_transforms()
    bicubic = t.InterpolationMode.BICUBIC
    crop = t.RandomResizedCrop(size, scale=(0.2, 1.0), interpolation=bicubic)
    tensor = (images.to_tensor, t.Normalize(*mean_and_std(channels)))
    plain = (images.middle, t.Resize(size, interpolation=bicubic), t.CenterCrop(size))
    return Augment(t.Compose([crop, t.RandomHorizontalFlip(), *tensor]), t.Compose([*plain, *tensor]))


def build(config: PretrainConfig) -> fcmae.FCMAE:
    """The model that the options describe, its weights drawn from the seed."""
    torch.manual_seed(config.seed)
    model: fcmae.FCMAE = getattr(fcmae, config.model)(
        img_size=config.input_size,
        in_chans=config.in_chans,
        mask_ratio=config.mask_ratio,
        decoder_depth=config.decoder_depth,
        decoder_embed_dim=config.decoder_embed_dim,
        patch_size=config.patch_size,
        norm_pix_loss=config.norm_pix_loss,
        grn_scope=config.grn_scope,
        init=config.init,
    )
    return model


class Masks:
    """The masks of a step, `[N, L]`, 0 keep, 1 removed, drawn for all processes' images together.

    Upstream draws them on the device from each process's own generator; here they depend on the seed, the step and the
    sample's place alone, so that neither the number of processes nor a restart changes them."""

    def __init__(self, seed: int, images: int, length: int, ratio: float) -> None:
        self.seed, self.images, self.length = seed, images, length
        self.kept = fcmae.FCMAE._keep(length, ratio)
        self._step, self._ranks = -1, torch.empty(0)

    def of(self, step: int, first: int, number: int) -> Tensor:
        """Those of images `first` to `first + number` of this step, on the CPU."""
        if step != self._step:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
            noise = torch.randn(self.images, self.length, generator=generator)
            self._step, self._ranks = step, noise.argsort(dim=1).argsort(dim=1)
        return (self._ranks[first : first + number] >= self.kept).float()


def run(config: PretrainConfig) -> dict[str, Any]:
    """See :func:`convnextv2_fast.train.pretrain`."""
    with processes(config.device, config.cuda_graph) as among:
        samples, batches = _data(config)
        model = build(config)
        if config.grad_checkpointing:
            model.set_grad_checkpointing()
        masks = Masks(config.seed, config.images(among.size), config.patches, config.mask_ratio)
        rate = config.learning_rate(config.images(among.size))
        task = Task(
            name="pretrain",
            network=config.model,
            model=model,
            make_optimizer=lambda m: torch.optim.AdamW(
                optim.pretraining_groups(m, config.weight_decay, config.decay_grn), lr=rate, betas=(0.9, 0.95)
            ),
            inputs=functools.partial(_inputs, masks),
            loss=_loss,
            batches=batches,
            epoch_samples=samples,
        )
        return train(config, task, among, find(config, among))


def _inputs(masks: Masks, batch: Batch, step: int, first: int) -> tuple[Tensor, Tensor, int]:
    mask = masks.of(step, first, len(batch.images)).to(batch.images.device, non_blocking=True)
    return batch.images, mask, masks.kept


def _loss(model: nn.Module, images: Tensor, mask: Tensor, kept: int) -> Tensor:
    return model(images, mask=mask, kept=kept, full_pred=False)[0]


def _data(config: PretrainConfig) -> tuple[int, MakeBatches]:
    """Samples of an epoch, and what makes the batches."""
    change, split = transform(config.input_size, config.in_chans), config.split
    if config.data_set in ("folder", "hf"):
        if config.epoch_samples:
            raise TrainingError("--epoch_samples is for streams (wds, hf-stream): a folder or table knows its number")
        if config.data_set == "folder":
            root = Path(config.data_path)
            root = root / "train" if (root / "train").is_dir() else root
            expected = "images may lie in it at any depth"
            table: tables.Table = tables.Folder(
                root, config.in_chans, expected=expected, value_range=config.value_range
            )
        else:
            table = HubTable(config, split, config.in_chans)
        return len(table), lambda steps, taken: data.training_batches(
            table, change, steps, config.num_workers, config.pinned
        )
    wds = config.data_set == "wds"
    source: streams.Source = streams.Shards(os.fspath(config.data_path)) if wds else streams.HubStream(config, split)
    if not config.epoch_samples:
        raise TrainingError(f"--data_set {config.data_set}: say how many images make an epoch: --epoch_samples N")

    def batches(steps: Steps, taken: dict[int, int]) -> Iterator[Batch]:
        workers, pin = config.num_workers, config.pinned
        return streams.stream_batches(source, change, steps, config.in_chans, workers, pin, taken, config.value_range)

    return config.epoch_samples, batches
