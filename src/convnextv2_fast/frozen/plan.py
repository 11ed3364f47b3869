"""The steps of a program, gathered from the modules of a model, each of which must be exactly what it seems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from .. import fused_modules, fusion
from ..adapters._swap import Frozen, is_accelerated, original_class, replaced_forward
from ..changes import acting_parameter, forward_changed, has_hooks
from ..errors import UnsupportedInputError
from ..fusion import Pair, Parts
from . import op
from .op import Output

DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # by the numbers that the operator knows them by
_PATCHES, _BLOCK, _NORM, _OUTPUT_NORM, _POOL, _LINEAR, _GELU = range(7)  # StepKind of csrc/cpu/model/program.h
_NO_NORM, _BEFORE, _AFTER = range(3)


def refuse(name: str, reason: str) -> NoReturn:
    """Raises the error of a module that cannot be part of a program."""
    raise UnsupportedInputError(
        f"freeze: {name or 'the model'} cannot be frozen: {reason}. Undo that change, or serve the model as it is"
    )


def plain_class(m: Any) -> type[nn.Module]:
    """The class of a module before it was accelerated or frozen."""
    cls: Any = type(m)
    if issubclass(cls, Frozen):
        cls = cls.frozen_as[1]
    elif is_accelerated(m):
        cls = original_class(m)
    return cls  # type: ignore[no-any-return]


def changed(m: nn.Module, hooks: Callable[[Any], bool] | None = None) -> str | None:
    """What was changed on a module, in words; None if nothing was. An accelerated or frozen one counts as what it was
    before. `hooks` tells which forward hooks do not count."""
    if isinstance(m, nn.ModuleList):  # nothing calls it
        return None
    if is_accelerated(m) and replaced_forward(m):
        return "has a class whose forward was replaced"
    return "has hooks" if has_hooks(m, hooks) else forward_changed(m, plain_class(m)) or acting_parameter(m)


def refuse_other_methods(model: nn.Module, kept: dict[str, Any]) -> None:
    """Refuses a model that has methods other than these, which its class was written with."""
    for name, function in kept.items():
        if name in vars(model):
            refuse("", f"it has a {name} of its own")
        if getattr(plain_class(model), name) is not function:
            refuse("", f"it has a class whose {name} was replaced")


class Plan:
    """Steps in the order of their execution. A method that adds one returns it as an :class:`Output`, and raises
    UnsupportedInputError if a module was changed; `name` is the module's in the model.

    Args:
        whole: the modules that the program stands for, with all modules inside them, by their names in the model.
        stem: the model's first convolution, whose weight has the dtype of the activations.
        why: why there is none.
    """

    def __init__(self, whole: dict[str, nn.Module], stem: Any, why: str | None = None) -> None:
        weight = getattr(stem, "weight", None)
        if not isinstance(weight, Tensor):
            refuse("the stem", why or "it is not a convolution and a LayerNorm")
        if weight.dtype not in DTYPES:
            dtype = str(weight.dtype).removeprefix("torch.")
            refuse("", f"it is in {dtype}, and frozen models are in float32, bfloat16 or float16")
        self.dtype, self.device = weight.dtype, weight.device
        self.whole = whole
        self._inspected: set[int] = set()  # the modules that were looked at, by their id
        self.used: dict[int, Tensor] = {}
        """The model's own parameters that are in the program, by their id."""
        self._plan: list[int] = []
        self._eps: list[float] = []
        self._weights: list[Tensor] = []
        self._channels = self._reduction = 0
        self.image_channels = 0
        """Those of the image: of the first step."""

    @property
    def reduction(self) -> int:
        """How many pixels of the image make a position of the last map, along each edge."""
        return self._reduction

    def plain(self, name: str, m: Any, *classes: type, hooks: Callable[[Any], bool] | None = None) -> None:
        """Refuses a container, or another module that does nothing itself, unless it is of one of these classes and
        nobody has changed it. `hooks` tells which forward hooks do not count."""
        if plain_class(m) not in classes:
            refuse(name, f"it is a {type(m).__name__}, where a {classes[0].__name__} is expected")
        self.unchanged(name, m, hooks)

    def unchanged(self, name: str, m: nn.Module, hooks: Callable[[Any], bool] | None = None) -> None:
        """Refuses a module with hooks or another forward."""
        self._inspected.add(id(m))
        reason = changed(m, hooks)
        if reason is not None:
            refuse(name, f"it {reason}")

    def each(
        self, name: str, blocks: Any, parts: Callable[[Any], Parts | str], start: Output, *classes: type
    ) -> Output:
        """Adds the blocks of a container of one of these classes. Returns the last step; without blocks, `start`."""
        self.plain(name, blocks, *classes)
        for i, block in enumerate(blocks):
            start = self.block(f"{name}.{i}", block, parts)
        return start

    def patches(self, name: str, m: nn.Module, pair: Pair | str | None) -> Output:
        """Adds a stem or downsampling layer."""
        self.unchanged(name, m)
        if not isinstance(pair, Pair):
            refuse(name, pair or "it is not a convolution and a LayerNorm")
        reason = fusion.why_not_patch_conv(pair)
        if reason is not None:
            refuse(name, reason)
        conv, norm = pair.conv, pair.norm
        self._saw(conv, norm, *(wrapper for wrapper, *_ in pair.wrappers))
        self._step(name, _PATCHES, _BEFORE if pair.norm_first else _AFTER, norm.eps)
        self._take(name, conv.weight, conv.bias, norm.weight, norm.bias)
        self.image_channels = self.image_channels or conv.in_channels
        k = conv.kernel_size[0]
        return self._made(conv.out_channels, k * self._reduction if self._reduction else k)

    def block(self, name: str, m: nn.Module, parts: Callable[[Any], Parts | str]) -> Output:
        """Adds a block, whose modules `parts` tells."""
        self.unchanged(name, m)
        p = parts(m)
        if isinstance(p, str):
            refuse(name, p)
        reason = fusion.why_not_dwconv_layer_norm(p) or fusion.why_not_mlp_grn(p)
        if reason is not None:
            refuse(name, reason)
        self._saw(p.conv, p.norm, p.fc1, p.act, p.grn, p.fc2, p.drop_path, *p.drops)
        self._saw(*(wrapper for wrapper, *_ in (*p.first_wrappers, *p.second_wrappers)))
        kernel, bias, *norm = fused_modules.first_weights(p)
        w1, b1, gamma, beta, w2, b2 = fused_modules.second_weights(p)
        zeros = self._filler(b1.numel())  # GRN at zero is the identity
        self._step(name, _BLOCK, _NO_NORM, p.norm.eps, fused_modules.grn_eps(p))
        self._take(name, kernel, self._filler(kernel.shape[0]) if bias is None else bias, *norm, w1.flatten(1), b1)
        self._take(name, zeros if gamma is None else gamma, zeros if beta is None else beta, w2.flatten(1), b2)
        self._take(name, p.layer_scale)
        for t in (w1, w2):
            self.used[id(t)] = t
        return self._made(kernel.shape[0], self._reduction)

    def norm(self, name: str, norm: Any, classes: Sequence[type], *, aside: bool = False) -> Output:
        """Adds LayerNorm of the map. With `aside` its result is only an output, and the next step reads the map."""
        self._norm(name, norm, classes, "channels_first")
        self._step(name, _OUTPUT_NORM if aside else _NORM, _AFTER, norm.eps)
        self._take(name, norm.weight, norm.bias)
        return self._made(self._channels, self._reduction)

    def pool(self, name: str, norm: Any, classes: Sequence[type], data_format: str = "channels_last") -> Output:
        """Adds the mean over H and W and, unless `norm` is None, its LayerNorm."""
        if norm is None:
            self._step(name, _POOL, _NO_NORM)
            self._weights += [self._filler(self._channels), self._filler(0)]  # the first tells how many channels
        else:
            self._norm(name, norm, classes, data_format)
            self._step(name, _POOL, _AFTER, norm.eps)
            self._take(name, norm.weight, norm.bias)
        return self._made(self._channels, 0)

    def linear(self, name: str, linear: Any) -> Output:
        """Adds a linear layer behind pooling."""
        reason = fusion.why_not_module(linear, (nn.Linear,), "the head")
        if reason is not None:
            refuse(name, reason)
        self._saw(linear)
        self._step(name, _LINEAR, _NO_NORM)
        self._take(name, linear.weight, linear.bias)
        return self._made(linear.out_features, 0)

    def gelu(self, name: str, act: Any, classes: Sequence[type]) -> Output:
        """Adds GELU behind a linear layer."""
        reason = fusion.why_not_gelu(act, classes)
        if reason is not None:
            refuse(name, reason)
        self._saw(act)
        self._step(name, _GELU, _NO_NORM)
        self._weights += [self._filler(self._channels), self._filler(0)]
        return self._made(self._channels, 0)

    def pack(self) -> Tensor:
        """The program of a CPU."""
        with torch.inference_mode(False), torch.no_grad():
            program: Tensor = op.pack(self._plan, self._eps, self._weights, DTYPES.index(self.dtype))
        return program

    def check(self) -> None:
        """
        Raises:
            UnsupportedInputError: among the modules that it stands for is one that nobody has looked at.
        """
        for whole, module in self.whole.items():
            for inner, m in module.named_modules(prefix=whole):
                if inner and id(m) not in self._inspected:
                    refuse(inner, f"it is a {type(m).__name__} in a place that frozen models do not know")

    def _filler(self, count: int) -> Tensor:
        """Zeros, whatever the default dtype and device are."""
        return torch.zeros(count, dtype=torch.float32, device=self.device)

    def _norm(self, name: str, norm: Any, classes: Sequence[type], data_format: str) -> None:
        reason = fusion.why_not_layer_norm(norm, classes, data_format)
        if reason is not None:
            refuse(name, reason)
        self._saw(norm)

    def _saw(self, *modules: Any) -> None:
        self._inspected.update(id(m) for m in modules)

    def _step(self, name: str, kind: int, place: int, eps: float = 0.0, grn_eps: float = 0.0) -> None:
        if not (isinstance(eps, float | int) and isinstance(grn_eps, float | int)):
            refuse(name, "its eps is no number")
        self._plan += [kind, place]
        self._eps += [float(eps), float(grn_eps)]

    def _take(self, name: str, *weights: Tensor | None) -> None:
        for t in weights:
            if t is None:
                self._weights.append(self._filler(0))
                continue
            self.used[id(t)] = t
            if t.dtype not in (self.dtype, torch.float32):
                kinds = " and ".join(str(d).removeprefix("torch.") for d in (t.dtype, self.dtype))
                refuse(name, f"its parameters are of two dtypes, {kinds}; convert the model by .to(dtype)")
            if t.device != self.device or t.layout is not torch.strided:
                refuse(name, f"it has a parameter on {t.device}, of layout {t.layout}")
            self._weights.append(t.detach().contiguous())

    def _made(self, channels: int, reduction: int) -> Output:
        self._channels, is_map = channels, reduction > 0
        self._reduction = reduction or self._reduction
        return Output(len(self._plan) // 2 - 1, is_map, channels, reduction)
