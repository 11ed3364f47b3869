"""Cases made of modules: a block, a dense model, an FCMAE step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convnextv2_fast as cf

from ..rivals.masked_dense import dense_name, dense_value
from . import problems
from .cases import Candidate, Case, Setting
from .problems import Shape
from .roofline import model_work, op_work

CHECKED = 2  # samples of a batch that the reference recomputes


def randomise_grn(module: nn.Module, seed: int) -> None:
    """GRN starts at zero, where it does nothing: gives gamma and beta values, so that it counts in every check."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name.endswith(("grn.gamma", "grn.beta")):
                p.copy_(torch.randn(p.shape, generator=g) * 0.5)


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A module with reproducible random weights, leaving the global generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build()
    randomise_grn(module, seed)
    return module


def grad_vector(named: dict[str, Tensor]) -> Tensor:
    """All gradients in one vector, sorted by name."""
    return torch.cat([named[name].detach().flatten().double() for name in sorted(named)])


class ModuleCase(Case):
    """A module from tensor to tensor: forward, or forward, loss and backward (no optimiser: it is the same for all)."""

    def __init__(self, name: str, setting: Setting, backward: bool, *, sample: str, batch: int) -> None:
        super().__init__(name, setting, backward, sample=sample, batch=batch)
        self.sets = 1 if setting.smoke else 2

    input_shape: tuple[int, ...]
    checked = CHECKED

    def ours(self) -> nn.Module:
        """Our module, whose state dict all candidates share."""
        raise NotImplementedError

    def objective(self, y: Tensor, i: int) -> Tensor:
        raise NotImplementedError

    def reference(self, state: dict[str, Tensor], x: Tensor) -> Tensor:
        raise NotImplementedError

    @functools.cached_property
    def state(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in seeded(self.ours).state_dict().items()}

    @functools.cached_property
    def inputs(self) -> list[Tensor]:
        device = self.setting.device
        g = torch.Generator(device=device).manual_seed(1)
        return [torch.randn(self.input_shape, generator=g, device=device).to(self.placement) for _ in range(self.sets)]

    @functools.cached_property
    def placement(self) -> Tensor:
        """Carries device and dtype for Tensor.to."""
        return torch.empty(0, device=self.setting.device, dtype=self.setting.dtype)

    def step(self, module: Callable[[Tensor], Tensor], x: Tensor, i: int) -> Tensor:
        """One call as it is timed; gradients land in the parameters."""
        if not self.backward:
            with torch.inference_mode(), self.setting.autocast():
                return module(x)
        with self.setting.autocast():
            y = module(x)
        self.objective(y, i).backward()
        return y

    @functools.cached_property
    def expected(self) -> list[Tensor]:
        """float64: result of the small input; with backward, also gradients of the input and of all parameters."""
        state = {name: value.to(self.placement).double() for name, value in self.state.items()}
        x = self.inputs[0][: self.checked].double()
        if not self.backward:
            with torch.no_grad():
                return [self.reference(state, x)]
        leaves = {name: value.requires_grad_() for name, value in state.items()}
        x = x.detach().requires_grad_()
        y = self.reference(leaves, x)
        self.objective(y, 0).backward()
        return [y, x.grad, grad_vector({name: value.grad for name, value in leaves.items()})]

    def outputs(
        self, module: nn.Module, call: Callable[[Tensor], Tensor], x: Tensor, *, names: bool, inputs: bool = True
    ) -> list[Tensor]:
        """What `expected` holds, from a candidate; the parameters' gradients only if it has our names, the input's only
        with `inputs`."""
        module.zero_grad(set_to_none=True)
        x = x.detach().requires_grad_(self.backward and inputs)
        y = self.step(call, x, 0)
        if not self.backward:
            return [y]
        named = {name: p.grad for name, p in module.named_parameters()}
        found = [y.detach(), *([x.grad] if inputs else []), *([grad_vector(named)] if names else [])]
        module.zero_grad(set_to_none=True)
        return found

    def candidate(
        self,
        module: nn.Module,
        *,
        call: Callable[[Tensor], Tensor] | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
        names: bool = True,
        compiled: bool = False,
    ) -> Candidate:
        """`module` in the case's place and precision; `call` runs it (default: itself).

        A compiled module is checked on the timed input against itself uncompiled: another batch, or an input that wants
        a gradient, would compile again.
        """
        module = module.to(device=self.setting.device, dtype=self.setting.dtype).to(memory_format=memory_format)
        module.train(self.backward)
        call = module if call is None else call
        inputs = [x.contiguous(memory_format=memory_format) for x in self.inputs]

        def run(i: int) -> Tensor:
            if self.backward:
                module.zero_grad(set_to_none=True)
            return self.step(call, inputs[i % self.sets], i)

        if compiled:
            checked = functools.partial(self.outputs, module, x=inputs[0], names=True, inputs=False)
            return Candidate(run, lambda: checked(call=call), lambda: checked(call=module))
        outputs = functools.partial(self.outputs, module, call, inputs[0][: self.checked], names=names)
        return Candidate(run, outputs, lambda: self.expected if names else self.expected[:2])


class BlockCase(ModuleCase):
    """One dense block on `[N, C, H, W]`."""

    kind = "block"

    def __init__(self, shape: Shape, setting: Setting, backward: bool = False) -> None:
        super().__init__(f"block-{shape}", setting, backward, sample=f"block-{shape.sample}", batch=shape.n)
        self.dim, self.input_shape = shape.c, (shape.n, shape.c, shape.h, shape.w)
        rows = shape.n * shape.h * shape.w
        halves = (
            op_work(op, rows, shape.c, setting.width, backward=backward) for op in ("dwconv_layer_norm", "mlp_grn")
        )
        self.work = next(halves) + next(halves)
        self.sets = 1 if setting.smoke else max(2, min(8, round(256e6 / self.work.bytes)))

    def ours(self) -> nn.Module:
        return cf.convnextv2.Block(self.dim)

    def objective(self, y: Tensor, i: int) -> Tensor:
        return (y * self.gradient[: y.shape[0]].to(y)).sum()

    @functools.cached_property
    def gradient(self) -> Tensor:
        g = torch.Generator().manual_seed(2)
        return torch.randn(self.input_shape, generator=g).to(self.setting.device)

    def reference(self, state: dict[str, Tensor], x: Tensor) -> Tensor:
        return cf.reference.block(state, "", x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ModelCase(ModuleCase):
    """A dense classifier: inference, or a training step with cross entropy."""

    kind = "model"
    is_model = True

    def __init__(
        self,
        size: str,
        batch: int,
        setting: Setting,
        backward: bool = False,
        resolution: int = 224,
        classes: int = 1000,
    ) -> None:
        sample = f"convnextv2_{size}-{resolution}px"
        name = f"convnextv2_{size}-b{batch}-{resolution}px"
        super().__init__(name, setting, backward, sample=sample, batch=batch)
        self.size, self.images, self.resolution, self.classes = size, batch, resolution, classes
        self.input_shape = (batch, 3, resolution, resolution)
        self.work = model_work(size, batch, resolution, setting.width, backward=backward)

    def ours(self) -> nn.Module:
        return getattr(cf, f"convnextv2_{self.size}")(num_classes=self.classes)

    def objective(self, y: Tensor, i: int) -> Tensor:
        labels = torch.arange(y.shape[0], device=y.device) % self.classes
        return F.cross_entropy(y.to(torch.promote_types(y.dtype, torch.float32)), labels)

    def reference(self, state: dict[str, Tensor], x: Tensor) -> Tensor:
        return cf.reference.convnextv2(state, x)


class FcmaeCase(Case):
    """A pre-training step of FCMAE, forward and backward, the mask given: 60 % of the patches removed. `init`: the
    weights' standard deviation is 0.02 ("std02") or, as upstream draws them, 1 ("upstream")."""

    kind = "fcmae"
    is_model = True

    def __init__(
        self, size: str, batch: int, setting: Setting, resolution: int = 224, scope: str = "batch", init: str = "std02"
    ) -> None:
        drawn = "" if init == "std02" else f"-init_{init}"
        sample = f"fcmae_{size}-{resolution}px-grn_{scope}{drawn}"
        name = f"fcmae_{size}-b{batch}-{resolution}px-{scope}{drawn}"
        super().__init__(name, setting, True, sample=sample, batch=batch)
        self.size, self.images, self.scope, self.resolution, self.init = size, batch, scope, resolution, init
        self.sets = 1 if setting.smoke else 2
        grid = resolution // 32
        self.kept = int(grid * grid * problems.KEEP)
        share = self.kept / grid**2
        self.work = model_work(size, batch, resolution, setting.width, backward=True, visible=share)

    def ours(self) -> nn.Module:
        return getattr(cf.fcmae, f"convnextv2_{self.size}")(grn_scope=self.scope, init=self.init)

    @functools.cached_property
    def state(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in seeded(self.ours).state_dict().items()}

    @functools.cached_property
    def inputs(self) -> list[tuple[Tensor, Tensor]]:
        """Images and masks `[N, L]`, every sample keeping the same number of patches."""
        device, found = self.setting.device, []
        g = torch.Generator(device=device).manual_seed(1)
        for _ in range(self.sets):
            images = torch.randn(self.images, 3, self.resolution, self.resolution, generator=g, device=device)
            order = torch.rand(self.images, (self.resolution // 32) ** 2, generator=g, device=device).argsort(dim=1)
            found.append((images.to(self.setting.dtype), (order >= self.kept).float()))
        return found

    @functools.cached_property
    def expected(self) -> list[Tensor]:
        """float64: loss, prediction and all parameters' gradients, in the dense names, for the first images."""
        dtype, device = self.setting.dtype, self.setting.device
        state = {n: v.to(device, dtype).double().requires_grad_() for n, v in self.state.items()}
        images, mask = (t[:CHECKED] for t in self.inputs[0])
        loss, pred, _ = cf.reference.fcmae(state, images.double(), mask.double(), grn_scope=self.scope)
        loss.backward()
        named = {dense_name(n): dense_value(n, v.grad) for n, v in state.items()}
        return [loss.detach(), pred.detach(), grad_vector(named)]

    def candidate(
        self,
        module: nn.Module,
        call: Callable[[Tensor, Tensor], Sequence[Tensor]],
        *,
        sparse_names: bool,
        memory_format: torch.memory_format = torch.contiguous_format,
        plain: Callable[[Tensor, Tensor], Sequence[Tensor]] | None = None,
    ) -> Candidate:
        """`call(images, mask)` begins with the loss and the prediction; `plain` is given for a compiled call: what to
        compare it with, on the timed input."""
        inputs = [(images.contiguous(memory_format=memory_format), mask) for images, mask in self.inputs]

        def step(function: Callable[[Tensor, Tensor], Sequence[Tensor]], images: Tensor, mask: Tensor) -> list[Tensor]:
            module.zero_grad(set_to_none=True)
            with self.setting.autocast():
                loss, pred = function(images, mask)[:2]
            loss.backward()
            return [loss, pred]

        def outputs(function: Callable[..., Any], images: Tensor, mask: Tensor) -> list[Tensor]:
            results = [t.detach() for t in step(function, images, mask)]
            named = {n: p.grad for n, p in module.named_parameters()}
            if sparse_names:
                named = {dense_name(n): dense_value(n, v) for n, v in named.items()}
            module.zero_grad(set_to_none=True)
            return [*results, grad_vector(named)]

        small = tuple(t[:CHECKED] for t in inputs[0])
        return Candidate(
            lambda i: step(call, *inputs[i % self.sets]),
            lambda: outputs(call, *(small if plain is None else inputs[0])),
            lambda: self.expected if plain is None else outputs(plain, *inputs[0]),
        )
