"""The registry of providers: who competes in a case, under which id, and how it is built.

`fast-<backend>` ids come from the dispatcher, so a new backend appears by itself. A new peer is one function here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import convnextv2_fast as cf
from convnextv2_fast import dispatch
from convnextv2_fast.bench import peers
from convnextv2_fast.bench.peers import Unavailable
from convnextv2_fast.testing import KERNEL_OPS

from ..rivals import masked_dense, upstream_eager
from . import problems, serving
from .cases import Candidate, Case, OpCase
from .module_cases import BlockCase, FcmaeCase, ModelCase, ModuleCase

Builder = Callable[[Any], Candidate]
# What torch.compile compiles with. A dry run sets "eager", which traces only, or "", which leaves everything as it is.
compile_backend = "inductor"
_registry: dict[str, dict[str, Builder]] = {"op": {}, "block": {}, "model": {}, "fcmae": {}}
_on_request: set[tuple[str, str]] = set()


def provider(name: str, *kinds: str, on_request: bool = False) -> Callable[[Builder], Builder]:
    """Registers a builder of candidates; `on_request`: only where it is asked for by name (the GPU report)."""

    def add(builder: Builder) -> Builder:
        for kind in kinds:
            _registry[kind][name] = builder
            if on_request:
                _on_request.add((kind, name))
        return builder

    return add


def backends(op: str | None = None) -> list[str]:
    """Backends of an op, or of any op, in the order of preference."""
    ops = KERNEL_OPS if op is None else (op,)
    found = {implementation.backend for name in ops for implementation in dispatch.implementations(name)}
    return [name for name in dispatch.NAMES if name in found]


def names(case: Case) -> list[str]:
    """Ids of the providers of a case: ours first, then the peers."""
    ours = backends(case.op if isinstance(case, OpCase) else None)
    theirs = [name for name in _registry[case.kind] if (case.kind, name) not in _on_request]
    return [f"fast-{name}" for name in ours] + [name for name in theirs if _applies(name, case)]


def _applies(name: str, case: Case) -> bool:
    """Leaves out ids that could only ever be skipped for this case."""
    if isinstance(case, OpCase):
        if case.op == "sparse_dwconv":
            return name == "masked-dense"
        if case.op not in PLAIN:
            return False
        allowed = {"timm": case.op in ("grn", "mlp_grn"), "masked-dense": False}
        allowed["channels_last"] = case.op in ("dwconv_layer_norm", "patch_conv")
        return allowed.get(name, True)
    if name in ("onnxruntime", "openvino"):
        return case.setting.device == "cpu" and not case.backward and peers.installed(name)
    return True


def build(name: str, case: Case) -> Candidate:
    """The candidate of a provider.

    Raises:
        Unavailable: it cannot run here; the message is the skip reason.
        KeyError: unknown provider.
    """
    if name.startswith("fast-") and name not in _registry[case.kind]:
        return _fast(name.removeprefix("fast-"), case)
    inductor = "compile" in name and compile_backend == "inductor"
    if case.setting.smoke and inductor and not (isinstance(case, OpCase) and case.op == "grn"):
        raise Unavailable("--smoke compiles grn only: torch.compile takes 20 s and more for each of the others")
    return _registry[case.kind][name](case)


def compiled(function: Callable[..., Any], mode: str | None = None, *, constants: bool = False) -> Callable[..., Any]:
    """`function` under torch.compile, static shapes; `constants`: its weights will not change."""
    if compile_backend == "inductor" and constants:
        return torch.compile(function, dynamic=False, options={"freezing": True})
    if compile_backend == "inductor":
        return torch.compile(function, dynamic=False, mode=mode)
    return torch.compile(function, dynamic=False, backend=compile_backend) if compile_backend else function


def _fast(backend: str, case: Case) -> Candidate:
    missing = dispatch.backends()
    if missing.get(backend):
        raise Unavailable(f"{backend}: {'; '.join(missing[backend])}")
    chosen = functools.partial(cf.use_backend, backend)
    if isinstance(case, OpCase):
        tensors, layout = case.problems[0].tensors, case.problems[0].layout
        spec = dispatch.Spec.of(case.op, *tensors, layout=layout)._replace(needs_grad=case.backward)
        for implementation in dispatch.implementations(case.op):
            if implementation.backend == backend and implementation.reasons(spec):
                raise Unavailable(f"{backend}: {'; '.join(implementation.reasons(spec))}")
        return case.candidate(problems.public(case.op), backend=backend)

    module = case.ours()
    module.load_state_dict(case.state)  # type: ignore[attr-defined]
    if isinstance(case, FcmaeCase):
        module = module.to(device=case.setting.device, dtype=case.setting.dtype)

        def pretrain(images: Tensor, mask: Tensor) -> Any:
            with chosen():
                return module(images, mask=mask)

        return case.candidate(module, pretrain, sparse_names=True)
    assert isinstance(case, ModuleCase)

    def call(x: Tensor) -> Tensor:
        with chosen():
            return module(x)

    return case.candidate(module, call=call)


PLAIN = ("dwconv_layer_norm", "mlp_grn", "grn", "layer_norm", "patch_conv")  # ops spelled out in upstream_eager

# Ops ----------------------------------------------------------------------------------------------------------------


def _nchw(x: Tensor) -> Tensor:
    """The same `[N, H, W, C]` values in NCHW memory, as upstream hands them around."""
    return x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)


def _eager_op(case: OpCase) -> Callable[..., Tensor]:
    if case.op == "grn":
        return upstream_eager.response_norm
    if case.op == "patch_conv":
        stem = case.shape.k == 4

        def patch_conv(x: Tensor, weight: Tensor, bias: Tensor, **norm: tuple[Tensor, Tensor]) -> Tensor:
            (pair,) = norm.values()
            return (upstream_eager.stem if stem else upstream_eager.downsample)(x, weight, bias, *pair)

        return patch_conv
    return getattr(upstream_eager, case.op)


@provider("eager", "op")
def _op_eager(case: OpCase) -> Candidate:
    spatial = case.op in ("dwconv_layer_norm", "patch_conv")
    return case.candidate(_eager_op(case), _nchw if spatial else None)


@provider("channels_last", "op")
def _op_channels_last(case: OpCase) -> Candidate:
    return case.candidate(_eager_op(case))


@provider("compile", "op")
def _op_compile(case: OpCase) -> Candidate:
    return case.candidate(compiled(_eager_op(case)))


@provider("timm", "op")
def _op_timm(case: OpCase) -> Candidate:
    return case.candidate(peers.timm_op(case.op))


@provider("masked-dense", "op")
def _op_masked_dense(case: OpCase) -> Candidate:
    """sparse_dwconv as a dense convolution of the whole plane times the mask, planes in and out."""
    layouts = [problem.layout for problem in case.problems]
    active = [(layout.site_map >= 0).unsqueeze(1).to(case.setting.dtype) for layout in layouts]
    sets = []
    for layout, leaves in zip(layouts, case.leaves(), strict=True):
        plane = layout.to_dense(leaves[0]).permute(0, 3, 1, 2).detach().requires_grad_(case.backward)
        weight = masked_dense.dense_value("dwconv.kernel", leaves[1]).detach().requires_grad_(case.backward)
        sets.append([plane, weight, leaves[2]])
    grads = []
    if case.backward:
        grads = [lay.to_dense(g).permute(0, 3, 1, 2) for lay, g in zip(layouts, case.gradients, strict=True)]

    def run(i: int) -> list[Tensor]:
        i %= case.sets
        with torch.set_grad_enabled(case.backward):
            plane, weight, bias = sets[i]
            y = (
                torch.nn.functional.conv2d(plane * active[i], weight, bias, padding=3, groups=plane.shape[1])
                * active[i]
            )
        return [y, *torch.autograd.grad(y, sets[i], grads[i])] if case.backward else [y]

    def outputs() -> list[Tensor]:
        y, *found = run(0)
        rows = [layouts[0].from_dense(t.permute(0, 2, 3, 1)) for t in (y, *found[:1])]
        return [*rows, found[1][:, 0].permute(2, 1, 0).reshape(49, -1), found[2]] if found else rows

    return Candidate(run, outputs, lambda: case.expected)


# Blocks and models --------------------------------------------------------------------------------------------------


def _compiled(case: ModuleCase, module: torch.nn.Module, *, names: bool, mode: str | None = None) -> Candidate:
    """channels_last beneath: the layout that compiled code prefers. On a CPU, weights are constants in inference."""
    constants = case.setting.device == "cpu" and not case.backward and mode is None
    call = compiled(module, mode, constants=constants)
    return case.candidate(module, call=call, memory_format=torch.channels_last, names=names, compiled=True)


def _as_used(case: Any, compile_it: bool = False, mode: str | None = None) -> Candidate:
    """Our module as a user has it: backends chosen automatically, under torch.compile if asked for."""
    module = case.ours()
    module.load_state_dict(case.state)
    if isinstance(case, ModuleCase):
        call = compiled(module, mode) if compile_it else None
        return case.candidate(module, call=call, compiled=compile_it)
    module = module.to(device=case.setting.device, dtype=case.setting.dtype)

    def pretrain(images: Tensor, mask: Tensor) -> Any:
        return module(images, mask=mask, kept=case.kept)  # known to whoever draws the mask: nothing is read back

    if compile_it:
        return case.candidate(module, compiled(pretrain, mode), sparse_names=True, plain=pretrain)
    return case.candidate(module, pretrain, sparse_names=True)


provider("fast", "model", "fcmae", on_request=True)(_as_used)
provider("fast-compile", "model", "fcmae", on_request=True)(functools.partial(_as_used, compile_it=True))
provider("fast-reduce-overhead", "model", "fcmae", on_request=True)(
    functools.partial(_as_used, compile_it=True, mode="reduce-overhead")
)


@provider("eager", "block", "model")
def _module_eager(case: ModuleCase) -> Candidate:
    return case.candidate(serving.eager_module(case))


@provider("channels_last", "block", "model")
def _module_channels_last(case: ModuleCase) -> Candidate:
    return case.candidate(serving.eager_module(case), memory_format=torch.channels_last)


@provider("compile", "block", "model")
def _module_compile(case: ModuleCase) -> Candidate:
    return _compiled(case, serving.eager_module(case), names=True)


@provider("timm", "block", "model")
def _module_timm(case: ModuleCase) -> Candidate:
    return case.candidate(serving.timm_module(case), memory_format=torch.channels_last, names=False)


@provider("transformers", "block", "model")
def _module_transformers(case: ModuleCase) -> Candidate:
    if isinstance(case, ModelCase):
        module = peers.transformers_model(case.size, case.state)
    else:
        assert isinstance(case, BlockCase)
        module = peers.transformers_block(case.dim, case.state)
    return case.candidate(module, memory_format=torch.channels_last, names=False)


@provider("timm-compile", "model", on_request=True)
def _module_timm_compile(case: ModuleCase) -> Candidate:
    return _compiled(case, serving.timm_module(case), names=False)


@provider("timm-max-autotune", "model", on_request=True)
def _module_timm_autotune(case: ModuleCase) -> Candidate:
    return _compiled(case, serving.timm_module(case), names=False, mode="max-autotune")


@provider("max-autotune", "model", on_request=True)
def _module_autotune(case: ModuleCase) -> Candidate:
    return _compiled(case, serving.eager_module(case), names=True, mode="max-autotune")


provider("onnxruntime", "model")(serving.onnx)
provider("openvino", "model")(serving.openvino)
provider("fast-frozen", "model", on_request=True)(serving.frozen)
provider("timm-accelerated", "model", on_request=True)(serving.timm_accelerated)


# FCMAE --------------------------------------------------------------------------------------------------------------


def _masked_dense_module(case: FcmaeCase) -> masked_dense.MaskedDenseFCMAE:
    module = masked_dense.MaskedDenseFCMAE(case.size, case.scope)
    module.load_sparse(case.state)
    return module.to(device=case.setting.device, dtype=case.setting.dtype).to(memory_format=torch.channels_last)


@provider("masked-dense", "fcmae")
def _fcmae_masked_dense(case: FcmaeCase) -> Candidate:
    module = _masked_dense_module(case)
    return case.candidate(module, module, sparse_names=False, memory_format=torch.channels_last)


@provider("masked-dense-compile", "fcmae")
def _fcmae_masked_dense_compile(case: FcmaeCase) -> Candidate:
    return _masked_dense_compiled(case)


@provider("masked-dense-max-autotune", "fcmae", on_request=True)
def _fcmae_masked_dense_autotune(case: FcmaeCase) -> Candidate:
    return _masked_dense_compiled(case, "max-autotune")


def _masked_dense_compiled(case: FcmaeCase, mode: str | None = None) -> Candidate:
    module = _masked_dense_module(case)
    call = compiled(module, mode)
    return case.candidate(module, call, sparse_names=False, memory_format=torch.channels_last, plain=module)
