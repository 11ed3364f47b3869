"""Transforms of fine-tuning: timm's augmentation as upstream sets it up, and the plain transform of evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ..errors import TrainingError
from .data import Augment, Transform
from .finetune_config import FinetuneConfig, Preprocessing
from .images import grey, middle, to_tensor
from .libraries import blamed, need, torchvision_transforms
from .pretraining import mean_and_std as pretraining_mean_and_std

# What to do where colours cannot be augmented.
WITHOUT_COLOUR = "switch it off with --aa none and no --color_jitter (crops, flips and random erasing stay)"


def mean_and_std(images: Preprocessing, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of each channel: as in pre-training (ImageNet's for RGB), or a half and a half."""
    if images.imagenet_default_mean_and_std:
        return pretraining_mean_and_std(channels)
    return (0.5,) * channels, (0.5,) * channels


def training_transform(config: FinetuneConfig) -> Augment:
    """timm's, as upstream sets it up; an image for which it fails gets :func:`evaluation_transform`.

    Raises:
        TrainingError: colour augmentation for other bands than RGB's, or a policy that timm does not know.
    """
    t, channels, images = torchvision_transforms(), config.channels, config.preprocessing
    coloured = bool(config.aa or config.color_jitter)
    if channels not in (1, 3) and coloured:
        raise TrainingError(f"--in_chans {channels}: colour augmentation is for RGB images; {WITHOUT_COLOUR}")
    rgb = mean_and_std(images, 3) if channels == 3 else pretraining_mean_and_std(3)
    with blamed(f"--aa {config.aa}" if config.aa else f"--color_jitter {config.color_jitter}"):
        shape, colour, tensor = need("timm.data").create_transform(
            input_size=images.input_size,
            is_training=True,
            color_jitter=config.color_jitter or 0.0,
            auto_augment=config.aa or None,
            interpolation=config.train_interpolation,
            re_prob=config.reprob,
            re_mode=config.remode,
            re_count=config.recount,
            mean=rgb[0],
            std=rgb[1],
            separate=True,
        )
    _repair(colour)
    if channels != 3:
        erasing = tensor.transforms[2:]  # behind ToTensor and Normalize
        tensor = t.Compose([*_grey(channels), to_tensor, t.Normalize(*mean_and_std(images, channels)), *erasing])
    else:
        tensor.transforms[0] = to_tensor
    if coloured:
        shape.transforms.insert(0, _of_eight_bits)
    return Augment(t.Compose([shape, colour, tensor]), evaluation_transform(images, channels))


def _of_eight_bits(image: Any) -> Any:
    """The same, which colour augmentation can be applied to.

    Raises:
        TrainingError: an image of more bits or bands.
    """
    if isinstance(image, Tensor):
        raise TrainingError(f"colour augmentation is for images of 8 bits, and not all of these are; {WITHOUT_COLOUR}")
    return image


def evaluation_transform(images: Preprocessing, channels: int) -> Transform:
    """Upstream's: from 384 px on the whole image is resized, below it a centre crop of `crop_pct` (default 224/256)."""
    t, size = torchvision_transforms(), images.input_size
    bicubic = t.InterpolationMode.BICUBIC
    if size >= 384 and images.crop_pct is None:
        steps = [t.Resize((size, size), interpolation=bicubic)]
    else:
        whole = int(size / (images.crop_pct or 224 / 256))
        steps = [middle, t.Resize(whole, interpolation=bicubic), t.CenterCrop(size)]
    return t.Compose([*steps, *_grey(channels), to_tensor, t.Normalize(*mean_and_std(images, channels))])


def _grey(channels: int) -> list[Any]:
    return [grey] if channels == 1 else []


def _repair(colour: Any) -> None:
    """timm asks Pillow for 0 bits at its strongest posterisation. Pillow before 13 made a black image of that, which is
    what timm means by it; newer ones raise ValueError."""
    timm_posterize = need("timm.data.auto_augment").posterize
    for operation in _operations(colour.transforms):
        if getattr(operation, "aug_fn", None) is timm_posterize:
            operation.aug_fn = posterize


def _operations(steps: list[Any]) -> Iterator[Any]:
    """Those of RandAugment, AugMix (`ops`) and AutoAugment (`policy`, of lists)."""
    for step in steps:
        yield from getattr(step, "ops", ())
        for pair in getattr(step, "policy", ()):
            yield from pair


def posterize(image: Any, bits: int, **options: Any) -> Any:
    """timm's, with its own meaning of 0 bits: every channel becomes 0."""
    if bits > 0:
        return need("timm.data.auto_augment").posterize(image, bits, **options)
    from PIL import Image

    return Image.new(image.mode, image.size)
