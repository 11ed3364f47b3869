"""The options of `pretrain`."""

from __future__ import annotations

from dataclasses import MISSING, dataclass

from .config import MODELS, Place, TrainConfig
from .options import BOOLEAN, IMAGES, MODEL, SHARE, STEPS, model_name, number, one_of, option, path, whole


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainConfig):
    """What `pretrain` is told."""

    data_path: Place = option(
        IMAGES,
        MISSING,
        path("PATH"),
        "folder of images (its train/ if there is one), a Hugging Face dataset's name or folder, webdataset shards",
    )
    data_set: str = option(IMAGES, "folder", one_of("folder", "hf", "hf-stream", "wds"), "what --data_path is")
    epoch_samples: int | None = option(IMAGES, None, whole(1), "images of an epoch; for streams")
    input_size: int = option(IMAGES, 224, whole(1), "pixels a side, a multiple of 32")
    in_chans: int = option(IMAGES, 3, one_of(1, 3, 4), "1: grey, 3: RGB, 4: RGBA")

    model: str = option(MODEL, "convnextv2_base", model_name(*MODELS), ", ".join(MODELS))
    mask_ratio: float = option(MODEL, 0.6, SHARE, "share of patches that are removed")
    patch_size: int = option(MODEL, 32, whole(1), "pixels of a patch: 4 x 2**k")
    norm_pix_loss: bool = option(MODEL, True, BOOLEAN, "normalise the target patch by patch")
    decoder_depth: int = option(MODEL, 1, whole(1))
    decoder_embed_dim: int = option(MODEL, 512, whole(1))
    grn_scope: str = option(
        MODEL,
        "batch",
        one_of("batch", "sample"),
        "GRN's norm over the batch, as upstream's code, or over each sample, as the dense model; sample is recommended",
    )
    init: str = option(
        MODEL,
        "upstream",
        one_of("upstream", "std02"),
        "of the weights: upstream's has a std of 1, std02 of 0.02; std02 is recommended",
    )
    decay_grn: bool = option(MODEL, True, BOOLEAN, "weight decay of GRN and the mask token, as upstream")

    epochs: int = option(STEPS, 800, whole(1))
    blr: float = option(STEPS, 1.5e-4, number(0), "base learning rate")
    min_lr: float = option(STEPS, 0.0, number(0), "at the end of the cosine")
    warmup_epochs: float = option(STEPS, 40, number(0), "of a linear rise")
