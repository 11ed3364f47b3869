"""The names and tensor layouts of every format, one table each, around one canonical form.

Canonical is upstream's dense model (facebookresearch/ConvNeXt-V2, `models/convnextv2.py`) with the decoder of its
`models/fcmae.py` beside it: dense names, convolution weights `(Cout, Cin/groups, k, k)`, GRN `(1, 1, 1, 4C)`. A table
says where a module of the canonical form is called something else and which of its tensors are stored in another
layout; `decode` and `encode` move one tensor between the two without touching its values or dtype.

`{s}` stands for a stage (0..3), `{t}` for the same counted from 1, `{d}` for one that begins with a downsampling layer
(1..3), `{b}` for a block.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from ..errors import CheckpointError

# Canonical modules and what they are; the kind decides the layout of their tensors.
BODY = {
    "downsample_layers.0.0": "stem",
    "downsample_layers.0.1": "norm",
    "downsample_layers.{d}.0": "norm",
    "downsample_layers.{d}.1": "down",
    "stages.{s}.{b}.dwconv": "depthwise",
    "stages.{s}.{b}.norm": "norm",
    "stages.{s}.{b}.pwconv1": "linear",
    "stages.{s}.{b}.grn": "grn",
    "stages.{s}.{b}.pwconv2": "linear",
}
TAIL = {"norm": "norm", "head": "head"}
STAGE_NORMS = {"norm{s}": "norm"}  # of each stage's output, in backbones for detection and segmentation
# The FCMAE decoder is dense in every format that has one, also where the encoder is not: kinds of its own.
DECODER = {
    "decoder.{b}.dwconv": "plain",
    "decoder.{b}.norm": "norm",
    "decoder.{b}.pwconv1": "plain",
    "decoder.{b}.grn": "plain_grn",
    "decoder.{b}.pwconv2": "plain",
    "proj": "plain",
    "pred": "plain",
}
MASK_TOKEN = "mask_token"  # a bare parameter, not a module's

_PARAMETERS = {"grn": ("gamma", "beta"), "plain_grn": ("gamma", "beta")}
_NUMBERS = {"{s}": r"(?P<s>[0-3])", "{t}": r"(?P<t>[1-4])", "{d}": r"(?P<d>[1-3])", "{b}": r"(?P<b>\d+)"}


def group_of(canonical: str) -> str:
    """`body`, `norm` (the final one), `norm0` .. `norm3`, `head` or `decoder`: what a file may lack as a whole."""
    first = canonical.split(".", 1)[0]
    if first in ("downsample_layers", "stages"):
        return "body"
    return "decoder" if first in ("decoder", "proj", "pred", MASK_TOKEN) else first


@dataclass(frozen=True)
class Entry:
    """One tensor of a format: its name there, its canonical name (both with placeholders), and what it is."""

    name: str
    canonical: str
    kind: str
    parameter: str  # canonical parameter name: weight, bias, gamma, beta
    minkowski: bool = False  # stored as a kernel `(taps, ...)`, see `_from_kernel`


@dataclass(frozen=True)
class Format:
    """A naming and layout. `modules` lists what differs from canonical; `aliases` what is also read, never written."""

    name: str
    groups: tuple[str, ...]  # what it has a place for, beside the body
    modules: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[tuple[str, str], str] = field(default_factory=dict)  # (kind, canonical parameter) -> name here
    layouts: Mapping[tuple[str, str], Callable[[Tensor], Tensor]] = field(default_factory=dict)
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)  # canonical module -> further module names
    parameter_aliases: Mapping[tuple[str, str], str] = field(default_factory=dict)
    prefix: str = ""  # written before the names of `prefixed`
    prefixed: tuple[str, ...] = ("body",)

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Canonical template -> what this format writes for it."""
        table = {MASK_TOKEN: Entry(MASK_TOKEN, MASK_TOKEN, "plain", MASK_TOKEN)}
        for canonical, kind in {**BODY, **TAIL, **STAGE_NORMS, **DECODER}.items():
            module = self.modules.get(canonical, canonical)
            for parameter in _PARAMETERS.get(kind, ("weight", "bias")):
                own = self.parameters.get((kind, parameter), parameter)
                full = f"{canonical}.{parameter}"
                table[full] = Entry(f"{module}.{own}", full, kind, parameter, minkowski=own == "kernel")
        return table

    @cached_property
    def readable(self) -> list[tuple[re.Pattern[str], Entry]]:
        """What is read: patterns of whole names, prefixes not included, and what they are."""
        found = []
        for entry in self.entries.values():
            canonical_module = entry.canonical.rpartition(".")[0]
            module, _, own = entry.name.rpartition(".")
            names = {own, self.parameter_aliases.get((entry.kind, entry.parameter), own)}
            for m in (module, *self.aliases.get(canonical_module, ())):
                found += [(_pattern(f"{m}.{p}" if m else p), entry) for p in sorted(names)]
        return found

    def match(self, name: str) -> tuple[Entry, str] | None:
        """The table entry of `name` (prefixes already removed) and its canonical name; None if the format lacks it."""
        for pattern, entry in self.readable:
            found = pattern.fullmatch(name)
            if found:
                numbers = found.groupdict()
                if "t" in numbers:
                    numbers["s"] = str(int(numbers["t"]) - 1)
                return entry, entry.canonical.format(**numbers)
        return None

    def rename(self, canonical: str) -> tuple[Entry, str]:
        """The entry and name (prefix not included) under which this format stores the tensor `canonical`."""
        matched = UPSTREAM.match(canonical)
        if matched is None:
            raise KeyError(canonical)
        entry = self.entries[matched[0].canonical]
        found = _pattern(matched[0].name).fullmatch(canonical)
        assert found is not None  # match above found it by this pattern
        numbers = found.groupdict()
        if "s" in numbers:
            numbers["t"] = str(int(numbers["s"]) + 1)
        return entry, entry.name.format(**numbers)


def _pattern(template: str) -> re.Pattern[str]:
    escaped = re.escape(template)
    for placeholder, number in _NUMBERS.items():
        escaped = escaped.replace(re.escape(placeholder), number)
    return re.compile(escaped)


# ---- layouts, canonical -> stored. Minkowski's taps run down columns: kernel[kx * k + ky] == weight[..., ky, kx].


def _to_depthwise_kernel(weight: Tensor) -> Tensor:
    return weight[:, 0].permute(2, 1, 0).reshape(-1, weight.shape[0])


def _to_kernel(weight: Tensor) -> Tensor:
    return weight.permute(3, 2, 1, 0).reshape(-1, weight.shape[1], weight.shape[0])


def _to_row(x: Tensor) -> Tensor:
    return x.reshape(1, -1)


def _to_vector(x: Tensor) -> Tensor:
    return x.reshape(-1)


def _from_kernel(kernel: Tensor) -> Tensor | None:
    k = math.isqrt(kernel.shape[0])
    if k * k != kernel.shape[0]:
        return None
    if kernel.ndim == 2:
        return kernel.reshape(k, k, -1).permute(2, 1, 0).unsqueeze(1)
    if kernel.ndim == 3:
        return kernel.reshape(k, k, *kernel.shape[1:]).permute(3, 2, 1, 0)
    return None


_NDIM = {"stem": 4, "down": 4, "depthwise": 4, "norm": 1, "linear": 2, "head": 2}


def decode(entry: Entry, name: str, x: Tensor) -> Tensor:
    """`x` in canonical layout, a view where one is possible. CheckpointError for a shape that no layout has."""
    out: Tensor | None = x
    if entry.minkowski:
        ndim = 2 if entry.kind == "depthwise" else 3
        out = _from_kernel(x) if x.ndim == ndim else None
    elif entry.kind in ("grn", "plain_grn"):  # (4C,), (1, 4C) and (1, 1, 1, 4C) are all in circulation
        out = x.reshape(1, 1, 1, -1) if x.ndim and x.numel() == x.shape[-1] else None
    elif entry.parameter == "bias":
        out = x.reshape(-1) if x.ndim == 1 or (x.ndim == 2 and x.shape[0] == 1) else None
    elif entry.kind == "linear" and x.ndim == 4:
        out = x.flatten(1) if x.shape[2:] == (1, 1) else None
    elif entry.kind in _NDIM and x.ndim != _NDIM[entry.kind]:
        out = None
    if out is None:
        raise CheckpointError(f"{name} has shape {tuple(x.shape)}, which no known layout of `{entry.canonical}` has")
    return out


def encode(fmt: Format, entry: Entry, x: Tensor) -> Tensor:
    """Canonical `x` in the layout in which `fmt` stores `entry`."""
    layout = fmt.layouts.get((entry.kind, entry.parameter))
    return x if layout is None else layout(x)


# ---- the formats ----

_GRN = ("gamma", "beta")
_GRN_AS_WEIGHT_BIAS = {("grn", "gamma"): "weight", ("grn", "beta"): "bias"}
_GRN_VECTOR = {("grn", p): _to_vector for p in _GRN}

_OUT_NORMS = ("norm0", "norm1", "norm2", "norm3")

UPSTREAM = Format("upstream", ("norm", "head", *_OUT_NORMS))

FCMAE = Format(
    "fcmae",
    ("decoder",),
    modules={
        "downsample_layers.{d}.0": "downsample_layers.{d}.0.ln",
        "stages.{s}.{b}.norm": "stages.{s}.{b}.norm.ln",
        "stages.{s}.{b}.pwconv1": "stages.{s}.{b}.pwconv1.linear",
        "stages.{s}.{b}.pwconv2": "stages.{s}.{b}.pwconv2.linear",
    },
    parameters={("depthwise", "weight"): "kernel", ("down", "weight"): "kernel"},
    layouts={
        ("depthwise", "weight"): _to_depthwise_kernel,
        ("depthwise", "bias"): _to_row,
        ("down", "weight"): _to_kernel,
        ("down", "bias"): _to_row,
        **{("grn", p): _to_row for p in _GRN},
    },
    prefix="encoder.",
)

TIMM = Format(
    "timm",
    ("norm", "head"),
    modules={
        "downsample_layers.0.0": "stem.0",
        "downsample_layers.0.1": "stem.1",
        "downsample_layers.{d}.0": "stages.{d}.downsample.0",
        "downsample_layers.{d}.1": "stages.{d}.downsample.1",
        "stages.{s}.{b}.dwconv": "stages.{s}.blocks.{b}.conv_dw",
        "stages.{s}.{b}.norm": "stages.{s}.blocks.{b}.norm",
        "stages.{s}.{b}.pwconv1": "stages.{s}.blocks.{b}.mlp.fc1",
        "stages.{s}.{b}.grn": "stages.{s}.blocks.{b}.mlp.grn",
        "stages.{s}.{b}.pwconv2": "stages.{s}.blocks.{b}.mlp.fc2",
        "norm": "head.norm",
        "head": "head.fc",
    },
    parameters=_GRN_AS_WEIGHT_BIAS,
    layouts=_GRN_VECTOR,
    aliases={  # create_model(..., features_only=True) flattens the outer Sequentials
        "downsample_layers.0.0": ("stem_0",),
        "downsample_layers.0.1": ("stem_1",),
        "downsample_layers.{d}.0": ("stages_{d}.downsample.0",),
        "downsample_layers.{d}.1": ("stages_{d}.downsample.1",),
        "stages.{s}.{b}.dwconv": ("stages_{s}.blocks.{b}.conv_dw",),
        "stages.{s}.{b}.norm": ("stages_{s}.blocks.{b}.norm",),
        "stages.{s}.{b}.pwconv1": ("stages_{s}.blocks.{b}.mlp.fc1",),
        "stages.{s}.{b}.grn": ("stages_{s}.blocks.{b}.mlp.grn",),
        "stages.{s}.{b}.pwconv2": ("stages_{s}.blocks.{b}.mlp.fc2",),
    },
)

TRANSFORMERS = Format(
    "transformers",
    ("norm", "head", *_OUT_NORMS),
    modules={
        "downsample_layers.0.0": "embeddings.patch_embeddings",
        "downsample_layers.0.1": "embeddings.layernorm",
        "downsample_layers.{d}.0": "encoder.stages.{d}.downsampling_layer.0",
        "downsample_layers.{d}.1": "encoder.stages.{d}.downsampling_layer.1",
        "stages.{s}.{b}.dwconv": "encoder.stages.{s}.layers.{b}.dwconv",
        "stages.{s}.{b}.norm": "encoder.stages.{s}.layers.{b}.layernorm",
        "stages.{s}.{b}.pwconv1": "encoder.stages.{s}.layers.{b}.pwconv1",
        "stages.{s}.{b}.grn": "encoder.stages.{s}.layers.{b}.grn",
        "stages.{s}.{b}.pwconv2": "encoder.stages.{s}.layers.{b}.pwconv2",
        "norm": "layernorm",
        "head": "classifier",
        "norm{s}": "hidden_states_norms.stage{t}",
    },
    parameters=_GRN_AS_WEIGHT_BIAS,
    parameter_aliases={("grn", p): p for p in _GRN},  # files older than transformers' renaming of gamma and beta
    prefix="convnextv2.",
    prefixed=("body", "norm"),
)

# Its `norm3` is the final norm of a classifier, or the last of several stage norms: `convert` tells which.
MMPRETRAIN = Format(
    "mmpretrain",
    ("norm", "head", *_OUT_NORMS),
    modules={
        "stages.{s}.{b}.dwconv": "stages.{s}.{b}.depthwise_conv",
        "stages.{s}.{b}.pwconv1": "stages.{s}.{b}.pointwise_conv1",
        "stages.{s}.{b}.pwconv2": "stages.{s}.{b}.pointwise_conv2",
        "norm": "norm3",
        "head": "head.fc",
    },
    layouts=_GRN_VECTOR,
    prefix="backbone.",
    prefixed=("body", "norm", *_OUT_NORMS),
)

FORMATS: dict[str, Format] = {f.name: f for f in (UPSTREAM, FCMAE, TIMM, TRANSFORMERS, MMPRETRAIN)}
