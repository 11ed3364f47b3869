"""The seam to CUDA: what runs aside, what is recorded as a CUDA graph, and in which order calls use its memory.

Everything of `torch.cuda` that graphs need is here, behind :data:`recorder`, so that tests can put a tape of operators
on a CPU in its place.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import CaptureError

T = TypeVar("T")


def why_failed(error: Exception) -> str:
    """What to say of a capture that ended in an error."""
    said = (str(error).strip().splitlines() or [""])[0]
    return (
        f"cannot be captured as a CUDA graph: {type(error).__name__}: {said}. A graph holds nothing that reads a value "
        "back from the GPU (.item(), .cpu(), print, an if on a tensor) or whose result has a shape that depends on "
        "values; without graphs it would run"
    )


class Recording(Protocol):
    """What one call of a function did on the device."""

    @property
    def outputs(self) -> Any:
        """What the function returned; a replay writes into the same tensors."""

    def replay(self) -> None:
        """Does it again, on the values that now lie in the same memory."""


class Recorder(Protocol):
    """Makes recordings on one kind of device."""

    def why_not(self, device: torch.device) -> str | None:
        """Why nothing on this device can be recorded now; None: it can."""

    def aside(self, device: torch.device, function: Callable[[], T]) -> T:
        """Calls it as every call before a recording has to be made: apart from the stream that all work shares."""

    def building(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """In which what keeps streams, as DistributedDataParallel does, has to be built."""

    def pool(self) -> Any:
        """Memory that several recordings share."""

    def record(
        self,
        device: torch.device,
        function: Callable[[], Any],
        pool: Any,
        generators: Sequence[torch.Generator],
    ) -> Recording:
        """Calls it without effect on the device, and keeps what it would have done.

        Raises:
            CaptureError: it does what no recording can hold.
        """

    def in_order(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """A context, to be entered again and again, in which one thread and one stream at a time is at work."""


@dataclass
class _Graph:
    graph: torch.cuda.CUDAGraph
    outputs: Any

    def replay(self) -> None:
        self.graph.replay()


class Cuda:
    """CUDA graphs (on ROCm HIP's), by `torch.cuda.graph`."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def why_not(self, device: torch.device) -> str | None:
        if device.type != "cuda":
            return f"CUDA graphs are for CUDA devices, and the tensors are on {device}"
        if torch.cuda.is_current_stream_capturing():
            return "a CUDA graph is being captured already, of which this becomes a part"
        return None

    def _stream(self, device: torch.device) -> torch.cuda.Stream:
        """One for all that runs aside and for all recordings. Nodes of autograd and the workspaces of libraries belong
        to the stream of their first use; the default stream, which cannot be captured, must not be it."""
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        return self._streams[device]

    def aside(self, device: torch.device, function: Callable[[], T]) -> T:
        with self.building(device):
            result = function()
        current = torch.cuda.current_stream(device)
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.is_cuda:
                leaf.record_stream(current)
        return result

    @contextlib.contextmanager
    def building(self, device: torch.device) -> Iterator[None]:
        side, current = self._stream(device), torch.cuda.current_stream(device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            yield
        current.wait_stream(side)

    def pool(self) -> Any:
        return torch.cuda.graph_pool_handle()

    def record(
        self,
        device: torch.device,
        function: Callable[[], Any],
        pool: Any,
        generators: Sequence[torch.Generator],
    ) -> Recording:
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        try:
            # thread_local: loaders that pin memory and NCCL's watchdog may go on in their threads meanwhile. A capture
            # that fails may leave its stream the current one: the outer context does not.
            how = torch.cuda.graph(graph, pool, self._stream(device), capture_error_mode="thread_local")
            with torch.cuda.stream(torch.cuda.current_stream(device)), how:
                outputs = function()
        except Exception as error:
            raise CaptureError(why_failed(error)) from error
        return _Graph(graph, outputs)

    def in_order(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        return _Turns(device)


class _Turns:
    """Threads wait for each other on the host, their streams on the device."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._lock = device, threading.RLock()
        self._done: torch.cuda.Event | None = None

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._done is not None:
            torch.cuda.current_stream(self._device).wait_event(self._done)

    def __exit__(self, *_: object) -> None:
        try:
            if self._done is None:
                self._done = torch.cuda.Event()
            self._done.record(torch.cuda.current_stream(self._device))
        finally:
            self._lock.release()


recorder: Recorder = Cuda()
