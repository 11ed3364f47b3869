"""Transforms of fine-tuning: timm's augmentation as upstream sets it up, and the plain transform of evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import TrainingError
from .data import Augment, Transform
from .libraries import blamed, need, torchvision_transforms
from .pretrain import mean_and_std as pretraining_mean_and_std
from .tables import middle


def mean_and_std(args: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of each channel: as in pre-training (ImageNet's for RGB), or a half and a half."""
    channels = args.in_chans or 3
    if args.imagenet_default_mean_and_std:
        return pretraining_mean_and_std(channels)
    return (0.5,) * channels, (0.5,) * channels


def training_transform(args: Any) -> Augment:
    """timm's, as upstream sets it up; an image for which it fails gets :func:`evaluation_transform`.

    timm's colour operations are for RGB, so grey images (`--in_chans 1`) are augmented as RGB and made grey then.

    Raises:
        TrainingError: colour augmentation for RGBA images, or a policy that timm does not know.
    """
    t, channels = torchvision_transforms(), args.in_chans or 3
    if channels == 4 and (args.aa or args.color_jitter):
        raise TrainingError(
            "--in_chans 4: colour augmentation is for RGB images; switch it off with --aa '' and no --color_jitter "
            "(crops, flips and random erasing stay)"
        )
    with blamed(f"--aa {args.aa}" if args.aa else f"--color_jitter {args.color_jitter}"):
        shape, colour, tensor = need("timm.data").create_transform(
            input_size=args.input_size,
            is_training=True,
            color_jitter=args.color_jitter or 0.0,
            auto_augment=args.aa or None,
            interpolation=args.train_interpolation,
            re_prob=args.reprob,
            re_mode=args.remode,
            re_count=args.recount,
            mean=mean_and_std(args)[0] if channels == 3 else pretraining_mean_and_std(3)[0],
            std=mean_and_std(args)[1] if channels == 3 else pretraining_mean_and_std(3)[1],
            separate=True,
        )
    _repair(colour)
    if channels != 3:
        erasing = tensor.transforms[2:]  # behind ToTensor and Normalize
        tensor = t.Compose([*_grey(channels), t.ToTensor(), t.Normalize(*mean_and_std(args)), *erasing])
    return Augment(t.Compose([shape, colour, tensor]), evaluation_transform(args))


def evaluation_transform(args: Any) -> Transform:
    """Upstream's: from 384 px on the whole image is resized, below it a centre crop of `crop_pct` (default 224/256)."""
    t = torchvision_transforms()
    bicubic = t.InterpolationMode.BICUBIC
    if args.input_size >= 384 and args.crop_pct is None:
        steps = [t.Resize((args.input_size, args.input_size), interpolation=bicubic)]
    else:
        size = int(args.input_size / (args.crop_pct or 224 / 256))
        steps = [middle, t.Resize(size, interpolation=bicubic), t.CenterCrop(args.input_size)]
    return t.Compose([*steps, *_grey(args.in_chans or 3), t.ToTensor(), t.Normalize(*mean_and_std(args))])


def _grey(channels: int) -> list[Any]:
    return [torchvision_transforms().Grayscale(1)] if channels == 1 else []


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
