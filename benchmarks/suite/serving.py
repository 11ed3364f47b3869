"""Whole models as those who serve them have them: frozen, accelerated, exported to a runtime. And a peer's modules."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import convnextv2_fast as cf
from convnextv2_fast.bench import peers, runtimes
from convnextv2_fast.bench.peers import Unavailable

from ..rivals import upstream_eager
from .cases import Candidate
from .module_cases import BlockCase, ModelCase, ModuleCase

# What a result says of how a provider was run, where that is not the default.
SETTINGS = {
    "compile": "inductor freezing",  # max-autotune was no faster on a CPU
    "timm-compile": "inductor freezing",
    "onnxruntime": runtimes.ONNX_SETTINGS,
    "openvino": runtimes.OPENVINO_SETTINGS,
}


def settings(name: str, case: ModuleCase) -> str | None:
    """How the provider is run; None for its defaults."""
    return None if case.backward else SETTINGS.get(name)


def eager_module(case: ModuleCase) -> nn.Module:
    """Upstream's module with the case's weights."""
    if isinstance(case, ModelCase):
        module: nn.Module = upstream_eager.ConvNeXtV2(case.size, case.classes)
    else:
        assert isinstance(case, BlockCase)
        module = upstream_eager.Block(case.dim)
    module.load_state_dict(case.state)
    return module


def timm_module(case: ModuleCase) -> nn.Module:
    """timm's module with the case's weights."""
    if isinstance(case, ModelCase):
        return peers.timm_model(case.size, case.state)
    assert isinstance(case, BlockCase)
    return peers.timm_block(case.dim, case.state)


def frozen(case: ModelCase) -> Candidate:
    """Our model after `convnextv2_fast.freeze`."""
    if case.backward or case.setting.precision == "amp":
        raise Unavailable("a frozen model is for inference, in the dtype of its weights")
    module = case.ours()
    module.load_state_dict(case.state)
    call = cf.freeze(module.to(case.setting.device, case.setting.dtype).eval())
    return case.candidate(nn.Identity(), call=call)  # the case moves and converts modules: not this one


def timm_accelerated(case: ModelCase) -> Candidate:
    """timm's model after `convnextv2_fast.accelerate`."""
    module = timm_module(case)
    cf.accelerate(module)
    return case.candidate(module, names=False)


def onnx(case: ModelCase) -> Candidate:
    """Upstream's model in ONNX Runtime."""
    if case.setting.precision != "float32":
        raise Unavailable(f"ONNX Runtime has no {case.setting.precision} kernels on CPUs")
    return _exported(case, runtimes.onnx_model(lambda: eager_module(case).eval(), case.inputs[0], case.shared))


def openvino(case: ModelCase) -> Candidate:
    """Upstream's model in OpenVINO."""
    if case.setting.precision not in ("float32", "bfloat16"):
        raise Unavailable(f"not asked to compute in {case.setting.precision}")
    example, dtype = case.inputs[0].float(), case.setting.dtype
    return _exported(case, runtimes.openvino_model(lambda: eager_module(case).eval(), example, dtype, case.shared))


def _exported(case: ModelCase, call: Callable[[Tensor], Tensor]) -> Candidate:
    """An exported network takes the batch it was exported with, in float32: checked against its module on that."""
    inputs = [x.float() for x in case.inputs]

    def plain() -> list[Tensor]:
        with torch.inference_mode():
            return [eager_module(case).eval()(inputs[0])]

    return Candidate(lambda i: call(inputs[i % case.sets]), lambda: [call(inputs[0])], plain)
