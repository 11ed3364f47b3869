"""Load a checkpoint of any known format into a model: all of it, or an error and an untouched model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..adapters._swap import refuse_weights_for_frozen
from ..errors import CheckpointError
from .containers import StateDict
from .contents import STEM, Contents, contents
from .convert import Canonical, canonicalise
from .files import Source, find_state_dict
from .formats import encode, group_of
from .report import LoadReport

_logger = logging.getLogger("convnextv2_fast")


class MisfitError(CheckpointError):
    """A checkpoint that was recognised and does not fit the model, which was not changed.

    `str()` is `summary`, three lines (the checkpoint, the model, what to do), followed by `details`, every tensor that
    does not fit. `found` and `own` are what checkpoint and model hold.
    """

    def __init__(self, what: str, found: Contents, own: Contents, advice: str, details: str) -> None:
        self.found, self.own, self.details = found, own, details
        first = f"{what} ({found.format}) does not fit the model, which was not changed. It holds {found}"
        self.summary = f"{first}\nthe model is {own}\n{advice}"
        super().__init__(f"{self.summary}\n{details}")

    @property
    def other_network(self) -> bool:
        """Whether depths or dims differ."""
        return (self.found.depths, self.found.dims) != (self.own.depths, self.own.dims)


def load_checkpoint(
    model: nn.Module,
    path_or_dict: Source | StateDict,
    *,
    source: str = "auto",
    use_ema: bool | str = "auto",
    head: str = "auto",
    adapt_in_chans: bool = True,
    ignore: Sequence[str] = (),
    prefix: str | None = None,
) -> LoadReport:
    """Load a ConvNeXt V2 checkpoint of any known format into `model`, in place.

    Args:
        model: `ConvNeXtV2`, `SparseConvNeXtV2` or `FCMAE`, possibly compiled or wrapped; upstream's own, timm's and
            transformers' work too.
        path_or_dict: a file of `torch.save` or safetensors, a mapping (see `read_state_dict`), or a state dict that
            `find_state_dict` found.
        source: the checkpoint's format, or `"auto"` (see `convert_state_dict`).
        use_ema: load the moving average: True, False, or `"auto"` (only if there is nothing else).
        head: `"auto"`: a head of another size, or none in the file, leaves the model's head at its initial values;
            `"keep"`: then that is an error; `"drop"`: the file's head is never loaded.
        adapt_in_chans: fit a stem for 3 channels to the model's number as timm does (1: their sum; N: repeated, times
            3/N). False: a stem of another size is an error.
        ignore: tensors whose names in the file begin with one of these are not loaded, and the model's are left alone.
        prefix: takes what lies under it in the file, such as "teacher.", and drops the rest; needed where the file
            holds several networks. None: whatever enclosing modules have put before the names is found.

    Returns:
        A `LoadReport`. The parts a file may lack as a whole are the head, the final norm along with the head (FCMAE
        encoders), each stage norm (`out_norms`), and the decoder (dense checkpoints); what of them the model has is
        left at its initial values, which is also logged as a warning. The parts a model may lack as a whole are the
        same, and the file's are dropped. Values are converted to the dtype and device of the model.

    Raises:
        MisfitError: anything else missing, left over or of another shape: three lines of summary, then all tensors
            with their shapes. `model` is unchanged then.
        CheckpointError: its base class; a file that cannot be read or holds no ConvNeXt V2; a model that is none.
        UnsupportedInputError: the model, or a module in it, is frozen.
    """
    if head not in ("auto", "keep", "drop"):
        raise ValueError(f"head must be 'auto', 'keep' or 'drop', got {head!r}")
    refuse_weights_for_frozen(model)
    state = path_or_dict if isinstance(path_or_dict, StateDict) else find_state_dict(path_or_dict, use_ema)
    found = canonicalise(state.tensors, source, ignore, state.what, prefix)
    targets = model.state_dict()  # shares the storage of the parameters
    own = canonicalise(targets, what=f"the model ({type(model).__name__})", module=True)
    plan = _plan(found, own, head, adapt_in_chans)
    if plan.problems():
        raise _misfit(state.what, found, own, plan)
    with torch.no_grad():
        for name, x in plan.values.items():
            target = targets[own.names[name]]
            target.copy_(encode(own.format, own.entries[name], x).reshape(target.shape))
    report = LoadReport(
        checkpoint=state.what,
        key=state.key,
        format=found.format.name,
        loaded=len(plan.values),
        left_at_init=tuple(own.names[n] for n in plan.left),
        dropped=(*(found.names[n] for n in plan.dropped), *found.ignored, *state.beside),
        adapted=tuple(plan.adapted),
        unused_ema=state.unused_ema,
    )
    if report.left_at_init:
        _logger.warning("%s: left at their initial values: %s", state.what, ", ".join(report.left_at_init))
    return report


@dataclass
class _Plan:
    """What is to be done, by canonical name, and what stands against it, in words."""

    values: dict[str, Tensor] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    unreal: list[str] = field(default_factory=list)

    def problems(self) -> int:
        return len(self.missing) + len(self.surplus) + len(self.mismatched) + len(self.unreal)


def _plan(found: Canonical, own: Canonical, head: str, adapt_in_chans: bool) -> _Plan:
    plan = _Plan()
    given = dict(found.tensors)
    has_head = "head" in found.groups()
    heads = [n for n in given if group_of(n) == "head"]
    other_size = any(n in own.tensors and own.tensors[n].shape != given[n].shape for n in heads)
    may_lack_head = head == "drop" or (head == "auto" and (other_size or not has_head))
    if head == "drop" or (head == "auto" and other_size):
        for n in heads:
            del given[n]
        plan.dropped += heads
    groups = {group_of(n) for n in given}

    def may_lack(name: str) -> bool:
        group = group_of(name)
        if group == "head":
            return may_lack_head
        return group != "body" and group not in groups and not (group == "norm" and has_head)

    left_alone = set(found.ignored.values())
    for n, wanted in own.tensors.items():
        x = given.get(n)
        if x is None:
            allowed = n in left_alone or may_lack(n)
            (plan.left if allowed else plan.missing).append(n if allowed else _shown(own, n))
            continue
        if n == STEM and adapt_in_chans and x.shape[1] == 3 and wanted.shape[1] != 3:
            plan.adapted.append(f"{own.names[n]} from 3 to {wanted.shape[1]} input channels")
            x = _adapt_stem(x, wanted.shape[1])
        if x.shape != wanted.shape:
            plan.mismatched.append(f"{_shown(own, n)} in the model, {_shown(found, n)} in the checkpoint")
        if x.is_meta or wanted.is_meta:
            plan.unreal.append(_shown(own, n))
        plan.values[n] = x
    for n in given.keys() - own.tensors.keys():
        whole = group_of(n) != "body" and group_of(n) not in own.groups()
        if whole:
            plan.dropped.append(n)
        else:
            plan.surplus.append(_shown(found, n))
    order = list(found.tensors)
    plan.dropped.sort(key=order.index)
    plan.surplus.sort()
    return plan


def _shown(where: Canonical, name: str) -> str:
    return f"{where.names[name]} {where.shapes[name]}"


def _adapt_stem(weight: Tensor, channels: int) -> Tensor:
    """Weights `(C, 3, k, k)` for `channels` input channels, in their dtype; same rule as timm's `adapt_input_conv`."""
    wide = weight.float()
    if channels == 1:
        return wide.sum(dim=1, keepdim=True).to(weight.dtype)
    copies = -(-channels // 3)
    return (wide.repeat(1, copies, 1, 1)[:, :channels] * (3 / channels)).to(weight.dtype)


def _misfit(what: str, found: Canonical, own: Canonical, plan: _Plan) -> MisfitError:
    theirs, ours = contents(found), contents(own)
    lines: list[str] = []
    if (theirs.depths, theirs.dims) != (ours.depths, ours.dims):
        lines.append(
            f"  checkpoint: depths {theirs.depths}, dims {theirs.dims}; model: depths {ours.depths}, dims {ours.dims}"
        )
    for title, items in (
        ("missing from the checkpoint", plan.missing),
        ("left over in the checkpoint", plan.surplus),
        ("of another shape", plan.mismatched),
        ("without storage (meta device)", plan.unreal),
    ):
        if items:
            lines.append(f"  {title} ({len(items)}):")
            lines += [f"    {item}" for item in items]
    return MisfitError(what, theirs, ours, _advice(theirs, ours, plan), "\n".join(lines))


def _advice(theirs: Contents, ours: Contents, plan: _Plan) -> str:
    """What to do about it, in one line."""
    if (theirs.depths, theirs.dims) != (ours.depths, ours.dims):
        build = theirs.size or "a model of the checkpoint's depths and dims"
        return f"build {build}, or load a checkpoint of {ours.size or 'a model of these depths and dims'}"
    if plan.unreal:
        return "tensors on the meta device have no values: build the model, or load the file, on another device"
    counts = (("missing", plan.missing), ("left over", plan.surplus), ("of another shape", plan.mismatched))
    said = ", ".join(f"{len(items)} {word}" for word, items in counts if items)
    if theirs.in_chans not in (None, 3, ours.in_chans):
        return (
            f"build the model with in_chans={theirs.in_chans} (only stems for 3 channels are adapted); tensors: {said}"
        )
    return f"the networks are of one size, but tensors differ: {said}; `ignore` leaves tensors out by prefix"
