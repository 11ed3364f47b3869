"""A call of a frozen model: a few checks of the image, and one operator."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.fx import Proxy

from .. import dispatch, fusion, plain
from .._version import __version__
from ..errors import UnsupportedInputError
from . import op
from .record import PROGRAM, RECORD, Record, place
from .replay import Replay

OPS = ("block", "dwconv_layer_norm", "mlp_grn", "patch_conv", "layer_norm")
"""Those that a program stands for."""


def run(module: Any, image: Tensor, name: str) -> list[Tensor]:
    """Runs the program of a module on images `[N, C, H, W]`: an operator on a CPU, a replay on a GPU.

    Args:
        name: of the call among the record's.
    Returns:
        Maps `[N, C, H, W]` with channels_last strides, and vectors `[N, C]`.
    Raises:
        UnsupportedInputError: the image does not fit, or something is at work that a program does not take part in.
    """
    record: Record = getattr(module, RECORD)
    program: Tensor | Replay = getattr(module, PROGRAM)
    if not _fits(record, program, image):
        _refuse(record, program, image)
    call = record.calls[name]
    if isinstance(program, Replay):
        return program(call.path, image)
    results = op.forward(image, program, call.wanted, record.start)
    found = [results[i].permute(0, 3, 1, 2) if is_map else results[i] for i, is_map in enumerate(call.maps)]
    return [found[i] for i in call.places]


def _fits(record: Record, program: Tensor | Replay, x: Any) -> bool:
    is_operator = isinstance(program, Tensor)
    if not is_operator and torch.compiler.is_compiling():
        return False
    if isinstance(x, Proxy):  # a graph is made, of which nothing is known
        return is_operator
    if not isinstance(x, Tensor):
        return False
    if plain.recorded_by_jit() and is_operator:  # sizes are tensors then, and the operator looks at them
        return x.dtype is record.dtype
    return (
        x.dtype is record.dtype
        and x.ndim == 4
        and x.shape[1] == record.channels
        and x.shape[2] >= record.least
        and x.shape[3] >= record.least
        and not (x.requires_grad and torch.is_grad_enabled())
        and x.device == record.device
        and program.device == record.device
        and not torch.is_autocast_enabled(record.device.type)
        and what_is_at_work(record.device) is None
        and record.version == __version__
        and _has_its_modules(record)
    )


def _has_its_modules(record: Record) -> bool:
    # torch.compile and torch.export put tensors of their own in the place of parameters
    return torch.compiler.is_compiling() or record.seen is None or record.seen.is_still_there()


def what_is_at_work(device: torch.device) -> str | None:
    """What a program would not take part in, in words; None if there is nothing."""
    at_work = plain.why(device.type) or fusion.why_not_any()
    if at_work is not None:
        return at_work
    if device.type != "cpu":
        return None
    other = [f"{op} is asked to run on {name!r}" for op, name in dispatch.requested(*OPS) if name != "cpu"]
    return other[0] if other else None


def _refuse(record: Record, program: Tensor | Replay, x: Any) -> NoReturn:
    raise UnsupportedInputError(f"{record.name}, frozen: {_why_not(record, program, x)}")


def _why_not(record: Record, program: Tensor | Replay, x: Any) -> str:
    dtype, what = str(record.dtype).removeprefix("torch."), "images" if record.start == 0 else "maps"
    if torch.compiler.is_compiling() and not isinstance(program, Tensor):
        return "torch.compile does not look into the replay of a CUDA graph; unfreeze the model for that"
    if isinstance(x, Proxy):
        return "torch.fx does not look into the replay of a CUDA graph; unfreeze the model for that"
    if not isinstance(x, Tensor):
        return f"wants {what} [N, {record.channels}, H, W], got {type(x).__name__}"
    found = f"got {tuple(x.shape)} {str(x.dtype).removeprefix('torch.')} on {x.device}"
    if x.ndim != 4 or x.shape[1] != record.channels:
        return f"wants {what} [N, {record.channels}, H, W], {found}"
    if not x.is_floating_point():
        return f"wants floating-point images, {found}; convert with .float() / 255 and normalise"
    if x.dtype is not record.dtype:
        return (
            f"wants images in {dtype}, the model's dtype, {found}; convert the image, or unfreeze the model, convert "
            "it and freeze it again"
        )
    here = place(record.device)
    if x.device != record.device:
        return f"it runs on {here}, {found}; move the image, or unfreeze the model before it is moved"
    if program.device != record.device:
        where = f"load the model with map_location={str(record.device)!r}"
        return f"its program is on {program.device}, and runs on {here}; {where}"
    if x.shape[2] < record.least or x.shape[3] < record.least:
        return f"H and W must be at least {record.least}, {found}"
    if torch.is_autocast_enabled(record.device.type):
        return (
            f"autocast does not reach into a frozen model, which computes in {dtype}; call it outside autocast, and "
            "for bfloat16 convert the model by .to(torch.bfloat16) before it is frozen"
        )
    if x.requires_grad and torch.is_grad_enabled():
        return "it has no gradients, and the image requires one; detach the image, or unfreeze the model"
    if record.version != __version__:
        return f"convnextv2_fast {record.version} froze it, this is {__version__}; call freeze(model) again"
    if not _has_its_modules(record):
        return (
            "other parameters or modules are in the place of those that it was frozen with, and the program would not "
            "see them; put these back (torch.func.functional_call wants an unfrozen model), or call freeze(model) again"
        )
    at_work = what_is_at_work(record.device)
    if at_work is None:
        return "what stood in the way has been undone meanwhile, by another thread; call it again"
    return f"{at_work}; unfreeze the model for that"
