"""What the public functions of all ops share: argument checks, the autocast policy, the forms of weights."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ... import plain
from ...errors import UnsupportedInputError
from ...layouts import Layout


def shapes(**tensors: Tensor | None) -> str:
    """`x (2, 3) float32, weight (3,) float32`, for error messages."""
    return ", ".join(f"{name} {tuple(t.shape)} {_name(t.dtype)}" for name, t in tensors.items() if t is not None)


def has_shape(tensor: Tensor, *sizes: int) -> bool:
    """Whether the tensor has this shape. Sizes are compared one by one: torch.compile takes equal tuples of symbolic
    sizes for different ones."""
    if tensor.ndim != len(sizes):
        return False
    for have, want in zip(tensor.shape, sizes, strict=True):  # noqa: SIM110
        if have != want:
            return False
    return True


def check(ok: bool, op: str, wants: str, *values: object, **tensors: Tensor | None) -> None:
    """Raises the error that all ops use: the op, what it wants, what it got.

    `values` fill the `{}` in `wants`, on failure only: torch.compile cannot format symbolic sizes."""
    if not ok:
        raise UnsupportedInputError(f"{op}: {wants.format(*values)}; got {shapes(**tensors)}")


def check_rows(op: str, x: Tensor, layout: Layout | None) -> None:
    """Activations are floating point, `[N, H, W, C]`, or `[T, C]` with the layout that says where the rows sit."""
    check(x.is_floating_point(), op, "the activations must be floating point", x=x)
    if layout is None:
        check(x.ndim == 4, op, "x must be [N, H, W, C] (channels last), or [T, C] with layout=", x=x)
    elif x.ndim == 4:
        check(has_shape(x, *layout.shape, x.shape[3]), op, "x does not fit the layout's plane {}", layout.shape, x=x)
    else:
        check(
            x.ndim == 2 and x.shape[0] == layout.rows,
            op,
            "x must be [{}, C], the rows of its {}",
            layout.rows,
            type(layout).__name__,
            x=x,
        )


def check_params(op: str, x: Tensor, **params: Tensor | None) -> None:
    """Parameters live on x's device, in x's dtype or in float32 (as under autocast)."""
    for name, p in params.items():
        if p is None:
            continue
        if p.device != x.device:
            raise UnsupportedInputError(f"{op}: {name} is on {p.device}, x on {x.device}; move them together")
        if p.dtype != x.dtype and p.dtype != torch.float32:
            raise UnsupportedInputError(
                f"{op}: x is {_name(x.dtype)} and {name} {_name(p.dtype)}, but parameters must have x's dtype or "
                f"float32; convert x with x.to({p.dtype}) or the model with model.to({x.dtype})"
            )


def check_input(op: str, x: Tensor, weight: Tensor) -> None:
    """What PyTorch's layers demand of a module's input, outside autocast: its weight's dtype. An op alone takes 16-bit
    activations beside float32 parameters, but then some other layer of the model would fail, further on."""
    cast = autocast_dtype(x)
    if x.dtype == weight.dtype or cast is not None or not x.is_floating_point():
        return
    under = "" if x.dtype == torch.float64 else f", or run under torch.autocast({x.device.type!r})"
    raise UnsupportedInputError(
        f"{op}: the input is {_name(x.dtype)} and the weight {_name(weight.dtype)}; convert the input with "
        f"x.to({weight.dtype}) or the model with model.to({x.dtype}){under}"
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype that convolutions and matrix products run in under autocast; None outside it.

    The policy of the library: activations are cast once, parameters stay as they are (kernels read float32 ones), and
    statistics and accumulation are float32."""
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return None


def autocast_off(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Disables autocast: the ops have cast their inputs already, and torch must not cast again."""
    kind = x.device.type
    on = kind != "meta" and torch.is_autocast_enabled(kind)  # the meta device has no autocast
    return torch.autocast(kind, enabled=False) if on else contextlib.nullcontext()


class _KeepStrides(torch.autograd.Function):
    """The identity, whose gradient has the strides of its input."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor) -> Tensor:
        ctx.strides = parameter.stride()
        return parameter.view_as(parameter)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return in_strides(gradient, ctx.strides)


def in_strides(gradient: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The gradient with these strides if they only differ where the size is 1, else as it is: PyTorch copies that."""
    have = zip(gradient.shape, gradient.stride(), strides, strict=True)
    if gradient.stride() == strides or any(size != 1 and one != other for size, one, other in have):
        return gradient
    return gradient.as_strided(gradient.shape, strides)


def keep_strides(parameter: Tensor) -> Tensor:
    """The parameter, to be reshaped into the kernels' form: its gradient will have its own strides, as PyTorch's
    convolutions return it.

    The gradients of views are in row-major order. PyTorch copies those of another order than their parameter's, but not
    where only dimensions of size 1 differ, as in a depthwise kernel `[C, 1, 7, 7]` in channels_last: of those,
    DistributedDataParallel warns."""
    if not (parameter.requires_grad and torch.is_grad_enabled()):
        return parameter
    # whoever looks into the op cannot look into the function below
    if torch.compiler.is_compiling() or plain.why(parameter.device.type) is not None:
        return parameter
    if parameter.stride() == _row_major(parameter.shape):
        return parameter
    kept: Tensor = _KeepStrides.apply(parameter)
    return kept


def _row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a contiguous tensor, also where a size is 1."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def like_parameter(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient in the dtype of its parameter, and in its strides, if it is contiguous or in channels_last."""
    if gradient.dtype != parameter.dtype:
        gradient = gradient.to(parameter.dtype)
    if gradient.stride() != parameter.stride():
        if parameter.is_contiguous():
            gradient = gradient.contiguous()
        elif parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
            gradient = gradient.contiguous(memory_format=torch.channels_last)
    return in_strides(gradient, parameter.stride())


def flat(vector: Tensor) -> Tensor:
    """A parameter with as many elements as channels, of any shape, as contiguous `[C]`."""
    return vector if vector.ndim == 1 and vector.is_contiguous() else keep_strides(vector).reshape(-1).contiguous()


def taps(weight: Tensor) -> Tensor:
    """A depthwise weight as `[49, C]`, tap = kx*7 + ky (MinkowskiEngine's order, y fastest)."""
    if weight.ndim == 2:
        return weight
    weight = keep_strides(weight)
    return weight[:, 0].permute(2, 1, 0).reshape(-1, weight.shape[0])


def float_taps(weight: Tensor) -> Tensor:
    """:func:`taps`, contiguous, in float32; copied at most once."""
    kernel = weight if weight.ndim == 2 else keep_strides(weight)[:, 0].permute(2, 1, 0)
    if kernel.dtype != torch.float32:
        kernel = kernel.to(torch.float32, memory_format=torch.contiguous_format)
    return kernel.contiguous().view(-1, kernel.shape[-1])


def in_one_dtype(*vectors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Contiguous `[C]` vectors, where their dtypes differ in float32, or in float64 if one is."""
    dtypes = {v.dtype for v in vectors if v is not None}
    wide = torch.float64 if torch.float64 in dtypes else torch.float32
    rows = (None if v is None else flat(v) for v in vectors)
    return tuple(v.to(wide) if len(dtypes) > 1 and v is not None else v for v in rows)


def as_matrix(weight: Tensor) -> Tensor:
    """The weight of a linear layer `[K, C]` or of a 1x1 convolution `[K, C, 1, 1]` as a matrix."""
    one = weight.ndim == 4 and weight.shape[2] == weight.shape[3] == 1
    return keep_strides(weight).flatten(1) if one else weight


def conv2d_weight(kernel: Tensor) -> Tensor:
    """A depthwise weight as `[C, 1, 7, 7]`, the inverse of :func:`taps`."""
    if kernel.ndim == 4:
        return kernel
    side = round(kernel.shape[0] ** 0.5)
    return kernel.view(side, side, -1).permute(2, 1, 0).unsqueeze(1)


def rows_of(x: Tensor) -> Tensor:
    """Activations `[..., C]` as contiguous rows `[T, C]`."""
    return x.reshape(-1, x.shape[-1]).contiguous()


def any_needs_grad(*tensors: Tensor | None) -> bool:
    """Whether autograd must record what is done with these tensors."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def is_depthwise7(weight: Tensor, channels: int) -> bool:
    return has_shape(weight, 49, channels) or has_shape(weight, channels, 1, 7, 7)


def statistics_dtype(x: Tensor) -> torch.dtype:
    """float32 for float16 and bfloat16, the tensor's own dtype otherwise."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
