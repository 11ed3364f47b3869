"""The options of `pretrain`."""

from __future__ import annotations

from dataclasses import MISSING, dataclass

from ..errors import TrainingError
from .config import MODELS, Place, TrainConfig
from .options import AMOUNT, BOOLEAN, POSITIVE, SHARE, in_images, in_model, in_steps, model_name, one_of, path


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainConfig):
    """The options of `pretrain`: the masked autoencoder, its images and its schedule."""

    data_path: Place = in_images(
        MISSING,
        path("PATH"),
        "folder of images (its train/ if there is one), a Hugging Face dataset's name or folder, webdataset shards",
    )
    data_set: str = in_images("folder", one_of("folder", "hf", "hf-stream", "wds"), "what --data_path is")
    epoch_samples: int | None = in_images(None, POSITIVE, "images of an epoch; for streams")
    input_size: int = in_images(224, POSITIVE, "pixels a side, a multiple of 32")
    in_chans: int = in_images(3, POSITIVE, "1: grey, 3: RGB, 4: RGBA, others: bands of TIFF files")

    model: str = in_model("convnextv2_base", model_name(*MODELS), ", ".join(MODELS))
    mask_ratio: float = in_model(0.6, SHARE, "share of patches that are removed")
    patch_size: int = in_model(32, POSITIVE, "pixels of a patch: 4 x 2**k")
    norm_pix_loss: bool = in_model(True, BOOLEAN, "normalise the target patch by patch")
    decoder_depth: int = in_model(1, POSITIVE)
    decoder_embed_dim: int = in_model(512, POSITIVE)
    grn_scope: str = in_model(
        "batch",
        one_of("batch", "sample"),
        "GRN's norm over the batch, as upstream's code, or over each sample, as the dense model; sample is recommended",
    )
    init: str = in_model(
        "upstream",
        one_of("upstream", "std02"),
        "of the weights: upstream's has a std of 1, std02 of 0.02; std02 is recommended",
    )
    decay_grn: bool = in_model(True, BOOLEAN, "weight decay of GRN and the mask token, as upstream")

    epochs: int = in_steps(800, POSITIVE)
    blr: float = in_steps(1.5e-4, AMOUNT, "base learning rate")
    min_lr: float = in_steps(0.0, AMOUNT, "at the end of the cosine")
    warmup_epochs: float = in_steps(40, AMOUNT, "of a linear rise")

    def __post_init__(self) -> None:
        super().__post_init__()
        unit = max(self.patch_size, 32)
        if self.input_size % unit:
            raise TrainingError(f"--input_size must be a multiple of {unit}, got {self.input_size}")
        kept = _visible(self.patches, self.mask_ratio)
        if kept >= self.patches:
            raise TrainingError(
                f"--mask_ratio {self.mask_ratio} removes none of {self.patches} patches: nothing to learn"
            )
        if kept == 0:
            raise TrainingError(
                f"--mask_ratio {self.mask_ratio:g} leaves none of {self.patches} patches visible (--input_size "
                f"{self.input_size}, --patch_size {self.patch_size}): nothing to learn from; {self._instead(unit)}"
            )

    @property
    def patches(self) -> int:
        """Of an image."""
        return (self.input_size // self.patch_size) ** 2

    def _instead(self, unit: int) -> str:
        """What would leave a patch visible."""
        found = []
        ratio = next((r / 100 for r in range(99, 0, -1) if _visible(self.patches, r / 100)), None)
        if ratio is not None:
            found.append(f"--mask_ratio {ratio:g} or less")
        smaller = [self.patch_size // 2**k for k in range(1, 6) if self.patch_size // 2**k >= 4]
        patch = next((p for p in smaller if _visible((self.input_size // p) ** 2, self.mask_ratio)), None)
        if patch is not None:
            found.append(f"--patch_size {patch}")
        sizes = range(self.input_size, 32 * unit + self.input_size, unit)
        size = next((s for s in sizes if _visible((s // self.patch_size) ** 2, self.mask_ratio)), None)
        if size is not None:
            found.append(f"--input_size {size}")
        return f"try {' or '.join(found)}"


def _visible(patches: int, mask_ratio: float) -> int:
    """As FCMAE counts them."""
    return int(patches * (1 - mask_ratio))
