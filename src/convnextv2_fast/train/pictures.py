"""What an FCMAE sees and paints: original, masked, reconstruction, and the reconstruction with the visible pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoints.files import first_line
from ..errors import TrainingError
from ..models.fcmae import FCMAE
from . import saving, start
from .bands import Range
from .images import decode, middle, unreadable
from .images import size as size_of
from .libraries import need
from .pretraining import Masks, mean_and_std
from .tables import expand

CAPTIONS = ("original", "masked", "reconstruction", "with visible pixels")


def rebuild(content: Mapping[str, Any], path: Path, norm_pix_loss: bool | None = None) -> FCMAE:
    """The FCMAE of a pre-training checkpoint: sizes from its tensors, the rest from its arguments.

    Raises:
        TrainingError: it holds no FCMAE with its decoder.
    """
    state = content["model"]
    if "pred.weight" not in state or "encoder.downsample_layers.0.0.weight" not in state:
        raise TrainingError(
            f"{path}: holds no masked autoencoder with its decoder; reconstruct takes checkpoints of pretrain, or of "
            "upstream's main_pretrain.py (the released weights have no decoder)"
        )
    stem = state["encoder.downsample_layers.0.0.weight"]
    names = [name.split(".") for name in state]
    dims = [state[f"encoder.stages.{i}.0.norm.ln.weight"].shape[0] for i in range(4)]
    depths = [len({n[3] for n in names if n[:3] == ["encoder", "stages", str(i)]}) for i in range(4)]
    told = saving.arguments(content)
    model = FCMAE(
        in_chans=stem.shape[1],
        depths=depths,
        dims=dims,
        decoder_depth=len({n[1] for n in names if n[0] == "decoder"}),
        decoder_embed_dim=state["mask_token"].shape[1],
        patch_size=math.isqrt(state["pred.weight"].shape[0] // stem.shape[1]),
        norm_pix_loss=bool(told.get("norm_pix_loss", True)) if norm_pix_loss is None else norm_pix_loss,
        grn_scope=told.get("grn_scope", "batch"),
        init="std02",
    )
    saving.load_model_state(model, state, path)
    return model.eval()


def prepare(image: Any, size: int, channels: int) -> Tensor:
    """What `decode` gives as `[1, C, size, size]`, normalised: its shorter side resized, the middle cut out."""
    from PIL import Image

    image = middle(image)
    scale = size / min(size_of(image))
    wide, high = (max(size, round(side * scale)) for side in size_of(image))
    left, top = (wide - size) // 2, (high - size) // 2
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in mean_and_std(channels))
    if isinstance(image, Tensor):
        whole = F.interpolate(image.unsqueeze(0), (high, wide), mode="bicubic", antialias=True).clamp(0, 1)
        return (whole[..., top : top + size, left : left + size] - mean) / std
    image = image.resize((wide, high), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, size, size, channels)
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


@torch.no_grad()
def panels(model: FCMAE, image: Tensor, mask: Tensor) -> tuple[list[Tensor], float]:
    """The four pictures `[H, W, C]` in 0..1, and the loss.

    Where the model predicts normalised patches, they are brought back by the original patches' mean and deviation, as
    every MAE demonstration does: colours and contrast of a patch are then known, what is in it is not.
    """
    loss, pred, _ = model(image, mask=mask)
    grid = model.grid(image)
    rows = pred.flatten(2).transpose(1, 2)
    if model.norm_pix_loss:
        patches = model.patchify(image)
        var, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        rows = rows * (var + 1.0e-6).sqrt() + mean
    painted = model.unpatchify(rows, grid)
    hidden = mask.view(1, 1, *grid).repeat_interleave(model.patch_size, 2).repeat_interleave(model.patch_size, 3)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in mean_and_std(image.shape[1]))
    grey = -mean / std + 0.5 / std
    shown = (image, image * (1 - hidden) + grey * hidden, painted, image * (1 - hidden) + painted * hidden)
    return [(x * std + mean).clamp(0, 1)[0].permute(1, 2, 0) for x in shown], float(loss)


@dataclass(frozen=True)
class Row:
    """An image of a sheet: its four pictures `[H, W, C]`, its loss, how many of its patches were masked."""

    name: str
    pictures: list[Tensor]
    loss: float
    masked: int
    patches: int


def reconstruct(
    checkpoint: Path,
    images: Sequence[Path],
    out: Path,
    *,
    size: int | None,
    mask_ratio: float,
    seed: int,
    norm_pix_loss: bool | None,
    limit: int,
    value_range: Range = None,
    warn: Callable[[str], None],
    note: Callable[[str], None],
) -> list[Row]:
    """Writes a sheet with a row of four pictures for each image.

    Args:
        images: files, or folders of which all images are taken.
        size: pixels a side; None: that of the pre-training, which the checkpoint tells (224 where it does not).
        value_range: what is black and white in images of more than 8 bits; None: as in the pre-training.
        limit: most rows. warn: is told of images that cannot be read. note: of those beyond the limit.
    Raises:
        TrainingError: the checkpoint, all of the images, or the output file.
    """
    for name in ("PIL", "matplotlib"):
        need(name)
    content = saving.read(checkpoint)
    model = rebuild(content, checkpoint, norm_pix_loss)
    step = max(model.patch_size, 32)
    told = start.preprocessing(content)
    size, value_range = size or told.input_size, value_range or told.value_range
    if size % step:
        raise TrainingError(f"--size {size}: must be a multiple of {step} for this model")
    files = expand(images)
    if len(files) > limit:
        note(f"the first {limit} of {len(files)} images are drawn (--limit)")
    length = (size // model.patch_size) ** 2
    rows, problems = [], []
    for i, file in enumerate(files[:limit]):
        try:
            pixels = prepare(decode(file, model.in_chans, value_range), size, model.in_chans)
        except Exception as error:  # whatever a decoder says of a damaged file
            problems.append(unreadable(file, error))
            continue
        mask = Masks(seed, 1, length, mask_ratio).of(i, 0, 1)
        if not mask.any():
            raise TrainingError(f"--mask_ratio {mask_ratio} removes none of {length} patches: nothing to paint")
        if mask.all():
            raise TrainingError(f"--mask_ratio {mask_ratio} leaves none of {length} patches visible: nothing to go by")
        rows.append(Row(file.name, *panels(model, pixels, mask), int(mask.sum()), length))
    if not rows:
        raise TrainingError("\n".join(problems))
    for problem in problems:
        warn(problem)
    _draw(rows, checkpoint.name, out)
    return rows


def _draw(rows: Sequence[Row], checkpoint: str, out: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(CAPTIONS), 3 * len(rows) + 0.5), layout="constrained")
    for places, row in zip(figure.subplots(len(rows), len(CAPTIONS), squeeze=False), rows, strict=True):
        for axes, caption, picture in zip(places, CAPTIONS, row.pictures, strict=True):
            axes.imshow(_shown(picture).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            if row is rows[0]:
                axes.set_title(caption)
            axes.set_axis_off()
        if len(rows) > 1:
            where = {"xy": (0, -0.01), "xycoords": "axes fraction", "va": "top", "fontsize": "x-small"}
            places[0].annotate(f"{row.name}: loss {row.loss:.3f}", **where)
    masked = f"{rows[0].masked} of {rows[0].patches} patches masked"
    named = f"{rows[0].name}: loss {rows[0].loss:.3f}" if len(rows) == 1 else f"{len(rows)} images"
    figure.suptitle(f"{checkpoint}, {named}, {masked}", fontsize="small")
    save_figure(FigureCanvasAgg(figure), out)


def _shown(picture: Tensor) -> Tensor:
    """What can be drawn of `[H, W, C]`: the first three bands as colours, or the first one as grey."""
    return picture[..., :3] if picture.shape[-1] >= 3 else picture[..., 0]


def save_figure(canvas: Any, out: Path) -> None:
    """Raises TrainingError where it cannot be written."""
    try:
        canvas.print_figure(out, dpi=100, format=out.suffix.removeprefix(".") or "png")
    except (OSError, ValueError) as error:
        raise TrainingError(f"cannot write {out}: {first_line(error)}") from error
