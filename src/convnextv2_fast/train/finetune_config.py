"""The options of `finetune`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from typing import Any

from ..errors import TrainingError
from .config import MODELS, Place, TrainConfig
from .options import (
    AMOUNT,
    BELOW_ONE,
    BOOLEAN,
    POSITIVE,
    SHARE,
    in_augmentation,
    in_evaluation,
    in_images,
    in_model,
    in_optimizer,
    in_steps,
    model_name,
    number,
    one_of,
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
    value_range: Sequence[float] | None = None  # what is black and white in images of more than 8 bits


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TrainConfig):
    """The options of `finetune`. None means that a checkpoint, the data or the text of the option gives the value."""

    data_path: Place = in_images(
        MISSING, path("PATH"), "train/CLASS/IMAGE and val/CLASS/IMAGE in it; for image_folder CLASS/IMAGE"
    )
    eval_data_path: Place | None = in_images(None, path("PATH"), "validation images, CLASS/IMAGE; for image_folder")
    data_set: str = in_images("IMNET", one_of("IMNET", "image_folder", "CIFAR", "hf"), "what --data_path is")
    nb_classes: int | None = in_images(None, POSITIVE, "number of classes (default: counted from the data)")
    eval_split: str = in_images("validation", text("NAME"))
    input_size: int | None = in_images(
        None, POSITIVE, "pixels of a side, from 32 (default: 224; with --eval the checkpoint's)"
    )
    crop_pct: float | None = in_images(None, SHARE, "evaluation: share of the side that is kept (default: 224/256)")
    in_chans: int | None = in_images(
        None, POSITIVE, "1: grey, 3: RGB, 4: RGBA, others: bands of TIFF files (default: the checkpoint's, else 3)"
    )
    imagenet_default_mean_and_std: bool | None = in_images(
        None, BOOLEAN, "normalise by ImageNet's mean and std, else by 0.5 (default: true; with --eval the checkpoint's)"
    )

    recipe: str | None = in_model(
        None, one_of(*RECIPES), "upstream's published settings for this size, for 1024 images a step"
    )
    model: str | None = in_model(
        None, model_name(*MODELS), f"{', '.join(MODELS)} (default: the checkpoint's, else convnextv2_base)"
    )
    finetune: Place = in_model("", path("FILE"), "checkpoint to start from; its head is not used")
    model_key: str = in_model("model|module", text("KEYS"), "where its weights are (default: found)")
    details: bool = in_model(False, BOOLEAN, "list every tensor where the checkpoint does not fit the model")
    drop_path: float = in_model(0.0, SHARE, "stochastic depth")
    head_init_scale: float = in_model(0.001, number(), "without --finetune")
    layer_decay: float = in_model(1.0, SHARE, "learning rate factor a layer")
    layer_decay_type: str = in_model("single", one_of("single", "group"), "a layer a block, or three blocks")

    epochs: int = in_steps(100, POSITIVE)
    blr: float = in_steps(5e-4, AMOUNT, "base learning rate")
    min_lr: float = in_steps(1e-6, AMOUNT, "at the end of the cosine")
    warmup_epochs: float = in_steps(20, AMOUNT, "of a linear rise")

    warmup_steps: int = in_optimizer(-1, whole(), "in place of --warmup_epochs, if above 0")
    weight_decay_end: float | None = in_optimizer(
        None, AMOUNT, "cosine from --weight_decay to this (default: constant)"
    )
    opt: str = in_optimizer("adamw", text("NAME"), "any of timm's")
    opt_eps: float = in_optimizer(1e-8, AMOUNT)
    opt_betas: Sequence[float] | None = in_optimizer(None, BELOW_ONE, "default: the optimizer's own", several="+")
    momentum: float = in_optimizer(0.9, AMOUNT)

    color_jitter: float | None = in_augmentation(None, AMOUNT, "without --aa (default: none)")
    aa: str = in_augmentation(
        "rand-m9-mstd0.5-inc1",
        text("NAME", lambda word: "" if word.lower() == "none" else word),
        "timm's policy, or none",
    )
    smoothing: float = in_augmentation(0.1, BELOW_ONE, "of labels")
    train_interpolation: str = in_augmentation("bicubic", one_of("random", "bilinear", "bicubic"))
    reprob: float = in_augmentation(0.25, SHARE, "random erasing")
    remode: str = in_augmentation("pixel", one_of("const", "rand", "pixel"), "what is put there")
    recount: int = in_augmentation(1, POSITIVE)
    mixup: float = in_augmentation(0.0, AMOUNT, "alpha")
    cutmix: float = in_augmentation(0.0, AMOUNT, "alpha")
    cutmix_minmax: Sequence[float] | None = in_augmentation(
        None, SHARE, "least and largest, in place of its alpha", several=2
    )
    mixup_prob: float = in_augmentation(1.0, SHARE)
    mixup_switch_prob: float = in_augmentation(0.5, SHARE)
    mixup_mode: str = in_augmentation("batch", one_of("batch", "pair", "elem"))

    eval: bool = in_evaluation(False, BOOLEAN, "only evaluate --resume or --finetune")
    dist_eval: bool = in_evaluation(True, BOOLEAN, "share the validation images among the processes")
    disable_eval: bool = in_evaluation(False, BOOLEAN, "no evaluation while training")
    model_ema_eval: bool = in_evaluation(False, BOOLEAN, "evaluate the moving average, too")

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
