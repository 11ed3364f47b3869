"""A CUDA device that is not there: tensors meant for it lie on the CPU, its calls do nothing or the least.

Enough to run, in one process, the lines of the account that only a GPU reaches. A replayed graph does nothing: what it
gives is what its capture gave."""

import contextlib
import time
from types import SimpleNamespace

import torch
from torch.overrides import TorchFunctionMode


def elsewhere(value):
    """The CPU in place of the device."""
    if isinstance(value, (str, torch.device)) and str(value).partition(":")[0] == "cuda":
        return torch.device("cpu")
    return value


class OnTheCpu(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        named = {name: elsewhere(value) for name, value in (kwargs or {}).items()}
        return function(*map(elsewhere, args), **named)


class Event:
    def __init__(self, enable_timing=False):
        self.at = 0.0

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return 1e3 * (end.at - self.at)


def pretend(monkeypatch, calls):
    """Sets everything up, until the test ends; names of calls that matter to a test are added to `calls`."""

    def noted(name, result=None):
        return lambda *_, **__: calls.append(name) or result

    @contextlib.contextmanager
    def within(name):
        calls.append(name)
        yield

    cudart = SimpleNamespace(cudaProfilerStart=noted("profiler on"), cudaProfilerStop=noted("profiler off"))
    pretended = {
        "Event": Event,
        "Stream": lambda: SimpleNamespace(wait_stream=lambda other: None),
        "current_stream": lambda: SimpleNamespace(wait_stream=lambda other: None),
        "stream": lambda stream: contextlib.nullcontext(),
        "CUDAGraph": lambda: SimpleNamespace(replay=noted("replay")),
        "graph": lambda graph: within("capture"),
        "synchronize": noted("wait"),
        "empty_cache": noted("empty"),
        "memory_allocated": lambda: 1 << 20,
        "max_memory_allocated": lambda: 3 << 20,
        "reset_peak_memory_stats": lambda: None,
        "get_device_properties": lambda *_: SimpleNamespace(major=9, minor=0, multi_processor_count=132),
        "cudart": lambda: cudart,
        "_sleep": noted("marker"),
    }
    for name, value in pretended.items():
        monkeypatch.setattr(torch.cuda, name, value)
    generator = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": generator(device=elsewhere(device)))
    return OnTheCpu()
