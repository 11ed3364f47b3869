"""The processes of a run: started by torchrun or alone; DistributedDataParallel or FSDP2 around the model."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import TrainingError
from ..graphs import side_stream
from ..graphs.wrappers import bare, is_sharded
from ..models import convnextv2, convnextv2_sparse

__all__ = ["BLOCKS", "Processes", "bare", "is_sharded", "processes", "wrap"]

T = TypeVar("T")
BLOCKS = (convnextv2.Block, convnextv2_sparse.Block)


@dataclass(frozen=True)
class Processes:
    """This process among those of the run."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Over all processes."""
        if self.size == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values / self.size

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, float64."""
        found = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.size > 1:
            dist.all_reduce(found)
        return found.tolist()

    def gather(self, value: T) -> list[T]:
        """Everybody's value, in rank order."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def from_first(self, value: T) -> T:
        """The first process's value, everywhere."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0, device=self.device if self.device.type == "cuda" else None)
        return held[0]


@contextlib.contextmanager
def processes(device: torch.device | str | None, cuda_graph: bool = False) -> Iterator[Processes]:
    """Joins the group that torchrun started (gloo on CPUs, NCCL on GPUs), or stands alone.

    Args:
        device: None takes a GPU where there is one; under torchrun every process takes its own.
        cuda_graph: communication on GPUs may become part of CUDA graphs.
    Raises:
        TrainingError: no such device here.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_RANK", 0))
    kind = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if kind.type not in ("cpu", "cuda"):
        raise TrainingError(f"--device {device}: training runs on cpu and cuda devices")
    if kind.type == "cuda":
        kind = torch.device("cuda", local if size > 1 or kind.index is None else kind.index)
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if kind.index >= count:
            raise TrainingError(f"--device {device}: process {rank} wants {kind}, torch sees {count} CUDA devices here")
        torch.cuda.set_device(kind)
    if size > 1:
        # torchrun keeps one store through its restarts, with the addresses of the dead still in it.
        store, _, _ = next(dist.rendezvous("env://"))
        store = dist.PrefixStore(f"restart-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        on_gpu = kind.type == "cuda"
        if on_gpu and cuda_graph:  # as PyTorch's notes on CUDA graphs ask, before the group is made
            os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
        name, bound = ("nccl", kind) if on_gpu else ("gloo", None)
        dist.init_process_group(name, store=store, rank=rank, world_size=size, device_id=bound)
    try:
        yield Processes(rank, size, kind)
    finally:
        if size > 1:
            dist.destroy_process_group()


def wrap(model: nn.Module, how: str, among: Processes) -> nn.Module:
    """The model to call in training, its parameters on the device.

    Args:
        how: "ddp" or "fsdp". With one process "ddp" is the model itself; "fsdp" shards every block, and the rest as
            one, in place.
    """
    if how == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        if among.size == 1:
            raise TrainingError("--parallel fsdp shards over processes: start it with torchrun --nproc_per_node=N")
        # of blocks that return permuted views: nothing writes into those
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        mesh = init_device_mesh(among.device.type, (among.size,))
        for module in [m for m in model.modules() if isinstance(m, BLOCKS)]:
            fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)  # in place
        return model
    if among.size == 1:
        return model
    ids = [among.device.index] if among.device.type == "cuda" else None
    with side_stream(among.device):
        return nn.parallel.DistributedDataParallel(model, device_ids=ids)
