"""FCMAE's masks: how many patches a ratio keeps, and the checks of a mask that a caller gives."""

from __future__ import annotations

import torch
from torch import Tensor

from ..constants import constant
from ..errors import UnsupportedInputError


def kept_patches(length: int, mask_ratio: float) -> int:
    """Patches that each sample keeps of `length`: `int(length * (1 - mask_ratio))`, as upstream.

    Raises:
        UnsupportedInputError: a ratio outside [0, 1].
    """
    if not 0.0 <= mask_ratio <= 1.0:
        raise UnsupportedInputError(f"FCMAE: mask_ratio must lie in [0, 1], got {mask_ratio}")
    return int(length * (1 - constant(mask_ratio)))


def check_ratio(grid: tuple[int, int], patch_size: int, mask_ratio: float) -> None:
    """Of the patches `grid` = `(h, w)` of an image, the ratio must leave at least one visible.

    Raises:
        UnsupportedInputError: it leaves none, so the encoder would see nothing; or a ratio outside [0, 1].
    """
    h, w = grid
    if kept_patches(h * w, mask_ratio):
        return
    advice = "use larger images or a smaller patch_size"
    # in steps of 0.001, rounded down: 1 - 1/L itself may keep no patch, as floating-point numbers go
    most = int((1 - 1 / (h * w)) * 1000) / 1000
    if most > 0:
        advice += f", or a mask_ratio of at most {most:g}"
    raise UnsupportedInputError(
        f"FCMAE: mask_ratio={mask_ratio:g} leaves none of the {h}x{w} patches visible that an image of "
        f"{h * patch_size}x{w * patch_size} pixels has with patch_size={patch_size}, and the encoder would see "
        f"nothing; {advice}"
    )


def check_shape(mask: Tensor, samples: int, grid: tuple[int, int], who: str, patch_size: int) -> None:
    """A mask is `[N, h*w]` or `[N, h, w]`.

    Raises:
        UnsupportedInputError: it has another shape, be it `[N, w, h]`.
    """
    h, w = grid
    if tuple(mask.shape) not in ((samples, h * w), (samples, h, w)):
        raise UnsupportedInputError(
            f"{who}: images of {h * patch_size}x{w * patch_size} pixels have {h}x{w} patches of {patch_size}; wants a "
            f"mask [{samples}, {h * w}] or [{samples}, {h}, {w}], got {tuple(mask.shape)}"
        )


def check_visible(mask: Tensor, kept: int | None) -> Tensor:
    """Every sample of a given mask `[N, L]` must leave at least one patch visible, and its values must be 0 or 1.

    Where `kept` is given, it alone is looked at to see what is visible (:func:`check_kept`), and nothing is read back
    from a GPU. Values that cannot be read are not checked: whatever is not 0 is removed.

    Returns:
        The mask, of zeros and ones.
    Raises:
        UnsupportedInputError: a sample has no visible patch, or a value is neither 0 nor 1.
    """
    length = mask.shape[1]
    if kept is not None:
        if not 0 < kept <= length:
            raise UnsupportedInputError(
                f"FCMAE: kept must be the visible patches of every sample, 1 to {length} here, got {kept}"
            )
        return zeros_and_ones(mask, "FCMAE")
    if not _readable(mask):
        return zeros_and_ones(mask, "FCMAE")
    if mask.shape[0]:
        counts = (mask == 0).sum(1)
        strange = ((mask != 0) & (mask != 1)).any()
        least, found = torch.stack([counts.min(), strange.to(counts.dtype)]).tolist()  # one wait for a GPU
        if found:
            raise _strange(mask, "FCMAE")
        if not least:
            raise UnsupportedInputError(
                f"FCMAE: the mask removes all {length} patches of sample {int(counts.argmin())}, and the "
                "encoder would see nothing of it; leave at least one patch of every sample visible (0 in the mask)"
            )
    return mask


def zeros_and_ones(mask: Tensor, who: str) -> Tensor:
    """A mask on the CPU as it is. One that cannot be read without waiting for a GPU, or not at all: 1 in its dtype
    wherever it is not 0, which is what the encoder makes of it.

    Raises:
        UnsupportedInputError: a value on the CPU is neither 0 nor 1.
    """
    if not _readable(mask) or mask.device.type != "cpu":
        return mask if mask.dtype == torch.bool else (mask != 0).to(mask.dtype)
    if bool(((mask != 0) & (mask != 1)).any()):
        raise _strange(mask, who)
    return mask


def _strange(mask: Tensor, who: str) -> UnsupportedInputError:
    value = mask[(mask != 0) & (mask != 1)][0].item()
    return UnsupportedInputError(
        f"{who}: a mask holds 0 for visible and 1 for removed patches, got {value:g}; `mask != 0` makes such a mask"
    )


def check_kept(mask: Tensor, kept: int | None) -> None:
    """A mask `[N, L]` on the CPU must leave `kept` patches of every sample visible.

    On a GPU nothing is read back: not to do so is what `kept` is for, and a step may be captured as a CUDA graph.

    Raises:
        UnsupportedInputError: a sample has another number of visible patches.
    """
    if kept is None or mask.device.type != "cpu" or not _readable(mask):
        return
    counts = (mask == 0).sum(1)
    wrong = counts != kept
    if bool(wrong.any()):
        sample = int(wrong.nonzero()[0])
        raise UnsupportedInputError(
            f"kept={kept}, but the mask leaves {int(counts[sample])} patches of sample {sample} visible; leave kept "
            "out where samples differ"
        )


def _readable(mask: Tensor) -> bool:
    """False in torch.compile and torch.export, and where there is no data: reading would break the graph, or fail."""
    return not torch.compiler.is_compiling() and type(mask) is Tensor and mask.device.type != "meta"
