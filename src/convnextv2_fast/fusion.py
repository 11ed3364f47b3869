"""Whether a fused op may stand for some modules, and why not.

A fused op reads the parameters of several modules and calls none of them. So it may stand for them only while each is
exactly what it seems. A replaced, parametrised, quantised or hooked module must be called, or somebody's change would
be silently ignored. This is asked in every call, of each half of a block on its own, and answered in words.

The models and the adapters describe their modules as :class:`Parts` and :class:`Pair`; the classes that the ops can
stand for are part of the description, so that this file knows none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from .changes import touched

Wrapper = tuple[Any, Sequence[type], str]
"""A module around one of the parts, its known classes, and what to call it in a reason."""


class Known(NamedTuple):
    """The classes of modules that the ops can stand for in the blocks of one library; exactly these, none derived."""

    norms: Sequence[type]  # they compute LayerNorm over C and nothing else
    grns: Sequence[type]  # type(None) among them where a block may have none, as in ConvNeXt V1
    drop_paths: Sequence[type]  # nn.Identity, and those that row_scale stands for
    row_scale: Callable[[Any, Any], Tensor | None]  # (drop_path, maps) to the factors of the samples
    activations: Sequence[type] = (nn.GELU,)  # they compute GELU; `approximate` must be "none" where there is one
    linears: Sequence[type] = (nn.Linear,)  # nn.Conv2d too where the block calls 1x1 convolutions
    conv: type = nn.Conv2d  # another class has no geometry to ask for, and a `kernel` for a `weight`
    grn_names: tuple[str, str] = ("gamma", "beta")


class Parts(NamedTuple):
    """The modules of a block, and how the block calls those that are not fused."""

    known: Known
    conv: Any  # any module, for a user may have replaced it; so are the following
    norm: Any
    fc1: Any
    act: Any
    grn: Any
    fc2: Any
    drop_path: Any
    drops: Sequence[Any] = ()  # dropout: fused while it does nothing
    layer_scale: Tensor | None = None
    # Of GRN, from its module and the block's maps; None: those of a sample.
    rows_per_group: Callable[[Any, Any], int | Tensor] | None = None
    run_first: Callable[[Any], Any] | None = None  # maps to maps; None: conv, then norm, which takes rows
    run_second: Callable[[Any], Any] | None = None  # maps to maps, before layer scale; None: fc1 to fc2, on rows
    first_wrappers: Sequence[Wrapper] = ()
    second_wrappers: Sequence[Wrapper] = ()
    first_why: str | None = None  # what the adapter knows against fusing this half
    second_why: str | None = None


class Pair(NamedTuple):
    """A k x k convolution of stride k and the LayerNorm before or after it: a stem or a downsampling layer."""

    conv: Any
    norm: Any
    norms: Sequence[type]
    norm_first: bool
    conv_class: type = nn.Conv2d
    wrappers: Sequence[Wrapper] = ()


class Inspection(NamedTuple):
    """The ops that would run in a module, and the reasons why its other parts run the original code."""

    ops: tuple[str, ...]
    reasons: tuple[str, ...]


def inspect(found: Parts | Pair | str) -> Inspection:
    """Returns which ops run in a module of these parts, and why others do not; a string is a reason for all of it.

    Hooks on all modules are left out: they come and go. See :func:`why_not_any`."""
    if isinstance(found, str):
        return Inspection((), (found,))
    if isinstance(found, Pair):
        reasons = {"patch_conv": why_not_patch_conv(found)}
    else:
        reasons = {"dwconv_layer_norm": why_not_dwconv_layer_norm(found), "mlp_grn": why_not_mlp_grn(found)}
    fused = tuple(op for op, reason in reasons.items() if reason is None)
    return Inspection(fused, tuple(f"not {op}: {reason}" for op, reason in reasons.items() if reason is not None))


def why_not_any() -> str | None:
    """Why every module must be called at present; None if a fused op may stand for some."""
    return "there are hooks on all modules" if _has_any_global_hook() else None


def why_not_dwconv_layer_norm(p: Parts) -> str | None:
    """Why convolution and LayerNorm run as modules; None if they run as one op."""
    return (
        p.first_why
        or _not_wrapped(p.first_wrappers)
        or why_not_module(p.conv, (p.known.conv,), "the convolution")
        or (_not_depthwise(p.conv) if p.known.conv is nn.Conv2d else None)
        or why_not_layer_norm(p.norm, p.known.norms, "channels_last")
    )


def why_not_mlp_grn(p: Parts) -> str | None:
    """Why the MLP, layer scale, drop path and residual run as modules; None if they run as one op."""
    known = p.known
    return (
        p.second_why
        or _not_wrapped(p.second_wrappers)
        or why_not_linear(p.fc1, known.linears, "the first linear layer")
        or why_not_linear(p.fc2, known.linears, "the second linear layer")
        or why_not_gelu(p.act, known.activations)
        or _drops(p.drops)
        or (None if p.grn is None and type(None) in known.grns else why_not_module(p.grn, known.grns, "GRN"))
        or why_not_module(p.drop_path, known.drop_paths, "drop path")
    )


def why_not_patch_conv(p: Pair) -> str | None:
    """Why a convolution and the LayerNorm beside it run as modules; None if they run as one op."""
    return (
        _not_wrapped(p.wrappers)
        or why_not_module(p.conv, (p.conv_class,), "the convolution")
        or (_not_patches(p.conv) if p.conv_class is nn.Conv2d else None)
        or why_not_layer_norm(p.norm, p.norms, "channels_first")
    )


def why_not_layer_norm(norm: Any, classes: Sequence[type], data_format: str) -> str | None:
    """Why an op may not stand for LayerNorm of rows ("channels_last") or planes ("channels_first"); None if it may."""
    reason = why_not_module(norm, classes, "the norm")
    if reason is not None:
        return reason
    if norm.__dict__.get("data_format", data_format) != data_format:  # classes without it have only one
        return f"the norm is a LayerNorm of {norm.data_format} maps"
    weight = norm.weight
    if weight is None or norm.bias is None:
        return "LayerNorm has no weight or no bias"
    return None if weight.ndim == 1 else f"LayerNorm is over the last {weight.ndim} dimensions"


def why_not_module(m: Any, classes: Sequence[type], name: str) -> str | None:
    """Why an op that reads a module's parameters may not stand for it; None if it may. `name` begins the reason."""
    if type(m) not in classes:
        return f"{name} is a {type(m).__name__}"
    what = touched(m)
    return None if what is None else f"{name} {what}"


def _not_wrapped(wrappers: Sequence[Wrapper]) -> str | None:
    for m, classes, name in wrappers:
        reason = why_not_module(m, classes, name)
        if reason is not None:
            return reason
    return None


def _not_depthwise(conv: nn.Conv2d) -> str | None:
    if conv.kernel_size != (7, 7):
        return f"the convolution is {conv.kernel_size[0]}x{conv.kernel_size[1]}, the kernels are 7x7"
    if conv.dilation != (1, 1):
        return f"the convolution has dilation {conv.dilation[0]}"
    if conv.stride != (1, 1) or conv.padding != (3, 3) or conv.padding_mode != "zeros":
        return "the convolution has a stride, or padding other than 3 zeros"
    return None if conv.groups == conv.in_channels == conv.out_channels else "the convolution is not depthwise"


def _not_patches(conv: nn.Conv2d) -> str | None:
    same = conv.kernel_size == conv.stride and conv.kernel_size[0] == conv.kernel_size[1]
    if same and conv.padding in ((0, 0), "valid") and conv.dilation == (1, 1) and conv.groups == 1:
        return None
    return "the convolution's windows overlap, or it is padded, dilated or grouped"


def why_not_linear(m: Any, classes: Sequence[type], name: str) -> str | None:
    """Why an op may not stand for a linear layer or 1x1 convolution; None if it may. `name` begins the reason."""
    reason = why_not_module(m, classes, name)
    if reason is not None:
        return reason
    whole = type(m) is not nn.Conv2d or (m.kernel_size == m.stride == (1, 1) and m.padding == (0, 0) and m.groups == 1)
    if not whole:
        return f"{name} is a convolution other than 1x1"
    return f"{name} has no bias" if m.bias is None else None


def why_not_gelu(act: Any, classes: Sequence[type]) -> str | None:
    """Why an op may not stand for an activation as the erf GELU; None if it may."""
    if type(act) not in classes or act.__dict__.get("approximate", "none") != "none":
        return f"the activation is {act!r}, the kernels have the erf GELU"
    return why_not_module(act, classes, "the activation")


def _drops(drops: Sequence[Any]) -> str | None:
    for drop in drops:
        reason = why_not_module(drop, (nn.Dropout, nn.Identity), "dropout")
        if reason is not None:
            return reason
        if type(drop) is nn.Dropout and drop.p and drop.training:
            return f"dropout of {drop.p} in the MLP"
    return None
