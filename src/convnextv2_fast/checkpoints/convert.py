"""Recognise a state dict and rewrite it for another library, through upstream's dense form.

Nothing here computes: tensors are renamed, reshaped and transposed, so every conversion is exact, keeps dtype and
device, and can be undone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import CheckpointError
from .formats import (
    FORMATS,
    MMPRETRAIN,
    TRANSFORMERS,
    Entry,
    Format,
    decode,
    encode,
    group_of,
)
from .prefixes import locate, some

# timm builds the small sizes with 1x1 convolutions in place of linears (`conv_mlp=True`), told apart by their widths.
_TIMM_CONV_MLP = {
    (40, 80, 160, 320): True,
    (48, 96, 192, 384): True,
    (64, 128, 256, 512): True,
    (80, 160, 320, 640): True,
    (96, 192, 384, 768): False,
    (128, 256, 512, 1024): False,
    (192, 384, 768, 1536): False,
    (352, 704, 1408, 2816): False,
}


@dataclass
class Canonical:
    """A recognised state dict: tensors by canonical name, and what each was called and how it was stored."""

    format: Format
    tensors: dict[str, Tensor]
    names: dict[str, str]  # canonical name -> name in the file
    shapes: dict[str, tuple[int, ...]]  # as in the file
    entries: dict[str, Entry]
    ignored: dict[str, str | None] = field(default_factory=dict)  # name in the file -> canonical name, if it has one

    def groups(self) -> set[str]:
        return {group_of(name) for name in self.tensors}


def canonicalise(
    state_dict: Mapping[str, Tensor],
    source: str = "auto",
    ignore: Sequence[str] = (),
    what: str = "the state dict",
    prefix: str | None = None,
    module: bool = False,
) -> Canonical:
    """Recognise `state_dict` and bring it into canonical form (upstream's dense names and shapes, with the decoder).

    Args:
        state_dict: names to floating-point tensors, flat.
        source: a format's name, or `"auto"`: then one format must know every name, and a block must be among them.
        ignore: tensors whose names (as they stand in `state_dict`) begin with one of these are left out.
        what: how errors call the state dict.
        prefix: takes what lies under it, where the state dict holds several networks. None: there is one.
        module: the state dict is that of a module in memory, of which a part can be passed instead; errors advise it.

    Raises:
        CheckpointError: unrecognised names, several networks, two names for one tensor, a shape that no known layout
            has, a tensor that is not of floats or not dense.
    """
    if source != "auto" and source not in FORMATS:
        raise ValueError(f"source must be 'auto' or one of {', '.join(FORMATS)}, got {source!r}")
    if isinstance(ignore, str):
        ignore = (ignore,)
    for name, x in state_dict.items():
        if not isinstance(name, str) or not (isinstance(x, Tensor) or name.startswith(tuple(ignore))):
            raise CheckpointError(
                f"{what} is no flat state dict: {name!r} is a {type(x).__name__}, not a tensor; "
                "if it is a training checkpoint, pass what it holds under 'model' or 'state_dict'"
            )
    ignored = {n for n in state_dict if n.startswith(tuple(ignore))}
    names = [n for n in state_dict if n not in ignored and not _is_counter(n, state_dict[n])]
    if not names:
        raise CheckpointError(f"{what} holds no tensors{' beside the ignored ones' if state_dict else ''}")
    place = locate(names, source, what, prefix, module)
    fmt = place.format
    result = Canonical(fmt, {}, {}, {}, {})
    # mmpretrain calls both the final norm and the last stage's norm3; beside other stage norms it is one of them
    stage_norms = fmt is MMPRETRAIN and any(
        c.startswith(("norm0.", "norm1.", "norm2.")) for _, c in place.names.values()
    )
    for name, (entry, canonical) in place.names.items():
        if stage_norms and group_of(canonical) == "norm":
            canonical = canonical.replace("norm.", "norm3.", 1)
        x = state_dict[name].detach()
        if canonical in result.names:
            raise CheckpointError(f"{what} holds {canonical} twice: as {result.names[canonical]} and as {name}")
        if unfit := _unfit(x):
            raise CheckpointError(f"{what}: {name} is {unfit}")
        result.tensors[canonical] = decode(entry, name, x)
        result.names[canonical] = name
        result.shapes[canonical] = tuple(x.shape)
        result.entries[canonical] = entry
    result.ignored = {n: place.canonical(n) if n in ignored else None for n in state_dict if n not in place.names}
    return result


def _is_counter(name: str, x: Tensor) -> bool:
    """The number of models that a `torch.optim.swa_utils.AveragedModel` has averaged lies beside their average."""
    return name.rpartition(".")[2] == "n_averaged" and x.numel() == 1 and not x.is_floating_point()


def _unfit(x: Tensor) -> str:
    """What kind of tensor this is, where it is none of plain floats."""
    if x.is_complex():
        return f"{x.dtype}; complex weights are not supported"
    if not x.is_floating_point() or x.is_quantized:
        return f"{x.dtype}; quantised or integer weights are not supported"
    if x.is_nested:
        return "a nested tensor; only dense ones are supported"
    if x.layout is not torch.strided:
        return f"stored as {x.layout}; only dense tensors are supported: pass what its to_dense() returns"
    return ""


def architecture(tensors: Mapping[str, Tensor]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`(depths, dims)` of a canonical state dict, over the stages whose depthwise weights it holds."""
    blocks: dict[int, int] = {}
    dims: dict[int, int] = {}
    for name, x in tensors.items():
        part = name.split(".")
        if part[0] == "stages" and name.endswith("dwconv.weight"):
            stage = int(part[1])
            blocks[stage] = max(blocks.get(stage, 0), int(part[2]) + 1)
            dims[stage] = x.shape[0]
    return tuple(blocks[s] for s in sorted(blocks)), tuple(dims[s] for s in sorted(dims))


def detect_format(state_dict: Mapping[str, Tensor]) -> str:
    """The format of a flat state dict: `upstream`, `fcmae`, `timm`, `transformers` or `mmpretrain`.

    The released FCMAE encoders have dense names and no decoder: they are `upstream`.

    Raises:
        CheckpointError: no format knows all of its names.
    """
    return canonicalise(state_dict).format.name


def convert_state_dict(
    state_dict: Mapping[str, Tensor],
    source: str = "auto",
    target: str = "upstream",
    *,
    conv_mlp: bool | None = None,
    drop_extra: bool = False,
    ignore: Sequence[str] = (),
    prefix: str | None = None,
) -> dict[str, Tensor]:
    """Rewrite a ConvNeXt V2 state dict from one library's names and layouts into another's, exactly.

    Args:
        state_dict: names to tensors, flat. What enclosing modules and wrappers put before the names of the network
            (`module.`, `_orig_mod.`, `student.backbone.`) is found by matching and removed. GRN parameters are read as
            (4C,), (1, 4C) and (1, 1, 1, 4C) in every format, pointwise weights as (out, in) and (out, in, 1, 1).
        source: `auto`, `upstream` (the dense model; also the released FCMAE encoders), `fcmae` (MinkowskiEngine names,
            with or without decoder), `timm` (also `features_only`), `transformers` or `mmpretrain`.
        target: one of the same names, without `auto`. `fcmae` has upstream's full naming, `encoder.` before the
            encoder's tensors.
        conv_mlp: for target `timm`: 1x1 convolutions (atto to nano) or linears (tiny and larger); None: from the
            widths of the eight sizes.
        drop_extra: leave out what the target has no place for (the decoder in a dense format; final norm and head in
            `fcmae`). Without it, that is an error.
        ignore: tensors whose names in `state_dict` begin with one of these are left out, known or not.
        prefix: takes what lies under it, such as "teacher.", and leaves out the rest; needed where the state dict
            holds several networks.

    Returns:
        A new dict in the order of `state_dict`, of contiguous tensors with the dtype and device they had; where nothing
        had to be moved they share memory with the given ones.

    Raises:
        CheckpointError: unrecognised, malformed, several networks (their prefixes are listed), or without a place in
            the target (see `drop_extra`).
        ValueError: unknown `source` or `target`, or `conv_mlp` is needed and not given.
    """
    return rewrite(
        canonicalise(state_dict, source, ignore, prefix=prefix), target, conv_mlp=conv_mlp, drop_extra=drop_extra
    )


def rewrite(
    found: Canonical, target: str, *, conv_mlp: bool | None = None, drop_extra: bool = False
) -> dict[str, Tensor]:
    """The second half of `convert_state_dict`: a recognised state dict in the names and layouts of `target`."""
    if target not in FORMATS:
        raise ValueError(f"target must be one of {', '.join(FORMATS)}, got {target!r}")
    if conv_mlp is not None and target != "timm":
        raise ValueError(f"conv_mlp is for target 'timm' only, got target {target!r}")
    fmt = FORMATS[target]
    groups = found.groups()
    extra = [n for n in found.tensors if group_of(n) not in ("body", *fmt.groups)]
    if fmt is MMPRETRAIN and "norm3" in groups and ("norm" in groups or not groups & {"norm0", "norm1", "norm2"}):
        extra += [n for n in found.tensors if group_of(n) == "norm3"]  # that name would mean the final norm
    if extra and not drop_extra:
        names = some([found.names[n] for n in extra])
        raise CheckpointError(f"{target} has no place for {names}; drop_extra leaves them out")
    if target == "timm" and conv_mlp is None:
        conv_mlp = _timm_conv_mlp(found)
    # transformers' Backbone, the only one of its models with stage norms, is also the only one without prefix
    bare = fmt is TRANSFORMERS and any(g in groups for g in ("norm0", "norm1", "norm2", "norm3"))
    out: dict[str, Tensor] = {}
    for canonical, x in found.tensors.items():
        if canonical in extra:
            continue
        entry, name = fmt.rename(canonical)
        if group_of(canonical) in fmt.prefixed and not bare:
            name = fmt.prefix + name
        x = encode(fmt, entry, x)
        if conv_mlp and entry.kind == "linear" and entry.parameter == "weight":
            x = x[:, :, None, None]
        out[name] = x.contiguous()
    return out


def _timm_conv_mlp(found: Canonical) -> bool | None:
    """What timm's model of these widths has; None if there is no pointwise weight to shape."""
    if not any(e.kind == "linear" and e.parameter == "weight" for e in found.entries.values()):
        return None
    dims = architecture(found.tensors)[1]
    if dims not in _TIMM_CONV_MLP:
        raise ValueError(f"timm has no ConvNeXt V2 of widths {dims}: pass conv_mlp=True (1x1 convolutions) or False")
    return _TIMM_CONV_MLP[dims]


def remap_checkpoint_keys(ckpt: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Upstream's `utils.remap_checkpoint_keys`: FCMAE names to dense ones, the decoder's kept as they are.

    Same result as upstream's on FCMAE checkpoints, except that the decoder's GRN keeps its shape (1, 1, 1, 4C):
    upstream gives it two more dimensions, and drops the decoder before use. Unlike upstream's it can be applied to what
    is dense already, and raises CheckpointError for a name that it does not know.
    """
    return {name: x.contiguous() for name, x in canonicalise(ckpt).tensors.items()}
