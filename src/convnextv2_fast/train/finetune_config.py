"""The options of `finetune`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from typing import Any

from ..errors import TrainingError
from .config import MODELS, Place, TrainConfig
from .options import (
    AUGMENTATION,
    BOOLEAN,
    EVALUATION,
    IMAGES,
    MODEL,
    OPTIMIZER,
    SHARE,
    STEPS,
    model_name,
    number,
    one_of,
    option,
    path,
    text,
    whole,
)
from .recipes import RECIPES


@dataclass(frozen=True)
class Preprocessing:
    """How images are prepared for a classifier."""

    input_size: int = 224  # pixels of a side
    crop_pct: float | None = None  # share of the side that a centre crop keeps; None: see `evaluation_transform`
    imagenet_default_mean_and_std: bool = True  # else a mean of 0.5 and a deviation of 0.5


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TrainConfig):
    """What `finetune` is told. `model`, `in_chans`, `nb_classes` and the preprocessing can be found: None."""

    data_path: Place = option(
        IMAGES, MISSING, path("PATH"), "train/CLASS/IMAGE and val/CLASS/IMAGE in it; for image_folder CLASS/IMAGE"
    )
    eval_data_path: Place | None = option(
        IMAGES, None, path("PATH"), "validation images, CLASS/IMAGE; for image_folder"
    )
    data_set: str = option(IMAGES, "IMNET", one_of("IMNET", "image_folder", "CIFAR", "hf"), "what --data_path is")
    nb_classes: int | None = option(IMAGES, None, whole(1), "number of classes (default: counted from the data)")
    eval_split: str = option(IMAGES, "validation", text("NAME"))
    input_size: int | None = option(
        IMAGES, None, whole(1), "pixels of a side, from 32 (default: 224; with --eval the checkpoint's)"
    )
    crop_pct: float | None = option(
        IMAGES, None, SHARE, "evaluation: share of the side that is kept (default: 224/256)"
    )
    in_chans: int | None = option(
        IMAGES, None, one_of(1, 3, 4), "1: grey, 3: RGB, 4: RGBA (default: the checkpoint's, else 3)"
    )
    imagenet_default_mean_and_std: bool | None = option(
        IMAGES,
        None,
        BOOLEAN,
        "normalise by ImageNet's mean and std, else by 0.5 (default: true; with --eval the checkpoint's)",
    )

    recipe: str | None = option(
        MODEL, None, one_of(*RECIPES), "upstream's published settings for this size, for 1024 images a step"
    )
    model: str | None = option(
        MODEL, None, model_name(*MODELS), f"{', '.join(MODELS)} (default: the checkpoint's, else convnextv2_base)"
    )
    finetune: Place = option(MODEL, "", path("FILE"), "checkpoint to start from; its head is not used")
    model_key: str = option(MODEL, "model|module", text("KEYS"), "where its weights are (default: found)")
    details: bool = option(MODEL, False, BOOLEAN, "list every tensor where the checkpoint does not fit the model")
    drop_path: float = option(MODEL, 0.0, SHARE, "stochastic depth")
    head_init_scale: float = option(MODEL, 0.001, number(), "without --finetune")
    layer_decay: float = option(MODEL, 1.0, SHARE, "learning rate factor a layer")
    layer_decay_type: str = option(MODEL, "single", one_of("single", "group"), "a layer a block, or three blocks")

    epochs: int = option(STEPS, 100, whole(1))
    blr: float = option(STEPS, 5e-4, number(0), "base learning rate")
    min_lr: float = option(STEPS, 1e-6, number(0), "at the end of the cosine")
    warmup_epochs: float = option(STEPS, 20, number(0), "of a linear rise")

    warmup_steps: int = option(OPTIMIZER, -1, whole(), "in place of --warmup_epochs, if above 0")
    weight_decay_end: float | None = option(
        OPTIMIZER, None, number(0), "cosine from --weight_decay to this (default: constant)"
    )
    opt: str = option(OPTIMIZER, "adamw", text("NAME"), "any of timm's")
    opt_eps: float = option(OPTIMIZER, 1e-8, number(0))
    opt_betas: Sequence[float] | None = option(
        OPTIMIZER, None, number(0, below=1), "default: the optimizer's own", several="+"
    )
    momentum: float = option(OPTIMIZER, 0.9, number(0))

    color_jitter: float | None = option(AUGMENTATION, None, number(0), "without --aa (default: none)")
    aa: str = option(
        AUGMENTATION,
        "rand-m9-mstd0.5-inc1",
        text("NAME", lambda word: "" if word.lower() == "none" else word),
        "timm's policy, or none",
    )
    smoothing: float = option(AUGMENTATION, 0.1, number(0, below=1), "of labels")
    train_interpolation: str = option(AUGMENTATION, "bicubic", one_of("random", "bilinear", "bicubic"))
    reprob: float = option(AUGMENTATION, 0.25, SHARE, "random erasing")
    remode: str = option(AUGMENTATION, "pixel", one_of("const", "rand", "pixel"), "what is put there")
    recount: int = option(AUGMENTATION, 1, whole(1))
    mixup: float = option(AUGMENTATION, 0.0, number(0), "alpha")
    cutmix: float = option(AUGMENTATION, 0.0, number(0), "alpha")
    cutmix_minmax: Sequence[float] | None = option(
        AUGMENTATION, None, SHARE, "least and largest, in place of its alpha", several=2
    )
    mixup_prob: float = option(AUGMENTATION, 1.0, SHARE)
    mixup_switch_prob: float = option(AUGMENTATION, 0.5, SHARE)
    mixup_mode: str = option(AUGMENTATION, "batch", one_of("batch", "pair", "elem"))

    eval: bool = option(EVALUATION, False, BOOLEAN, "only evaluate --resume or --finetune")
    dist_eval: bool = option(EVALUATION, True, BOOLEAN, "share the validation images among the processes")
    disable_eval: bool = option(EVALUATION, False, BOOLEAN, "no evaluation while training")
    model_ema_eval: bool = option(EVALUATION, False, BOOLEAN, "evaluate the moving average, too")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cutmix_minmax is not None and self.cutmix_minmax[0] > self.cutmix_minmax[1]:
            least, most = self.cutmix_minmax
            raise TrainingError(f"--cutmix_minmax {least:g} {most:g}: the least comes first")

    @classmethod
    def of_recipe(cls, recipe: str, **changes: Any) -> FinetuneConfig:
        """Upstream's published settings for a size, "atto", "tiny" or "base", with changes."""
        return cls(recipe=recipe, **{**RECIPES[recipe], **changes})

    @property
    def network(self) -> str:
        """The model: upstream's default, where neither an option nor a checkpoint tells it."""
        return self.model or "convnextv2_base"

    @property
    def channels(self) -> int:
        """Input channels of the model."""
        return self.in_chans or 3

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are prepared, with the defaults for what is not given."""
        given = {name: getattr(self, name) for name in vars(Preprocessing())}
        return Preprocessing(**{name: value for name, value in given.items() if value is not None})

    def warmup(self, per_epoch: int) -> float:
        return self.warmup_steps / per_epoch if self.warmup_steps > 0 else self.warmup_epochs
