"""The tests of this folder need the library of `../device.cpp`, loaded first: `../test_fake_device.py` starts them."""

import os
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import convnextv2_fast as cf
from convnextv2_fast import library
from convnextv2_fast.ops._triton import chip as chips

collect_ignore_glob = [] if os.environ.get("FAKE_DEVICE") else ["test_*.py"]


class OurOps(TorchDispatchMode):
    """The names of our operators that were called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "convnextv2_fast":
            self.names.add(func.name().partition("::")[2].partition(".")[0])
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=["cuda", "triton"])
def called(request, monkeypatch):
    """Within the test every tensor is fake, on a GPU that backends take for an H100: shapes, strides, dtypes and
    devices of the real one, no values. Whoever reads a value gets DataDependentOutputException.

    Yields the names of our operators that were called."""
    properties = SimpleNamespace(major=9, minor=0, multi_processor_count=132)
    for name, value in (
        ("is_available", True),
        ("get_device_properties", properties),
        ("is_current_stream_capturing", True),
        ("is_bf16_supported", True),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value, **__: value)
    monkeypatch.setattr(library, "why_not", lambda _: None)
    monkeypatch.setattr(library, "cuda_code_for", lambda _: True)
    ops = OurOps()
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        chips.assume(chips.KNOWN["sm_90"]),
        cf.use_backend(request.param),
        ops,
    ):
        yield ops.names


@pytest.fixture
def backend(request):
    return request.node.callspec.params["called"]
