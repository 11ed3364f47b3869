"""One process of a distributed test: `torchrun -m tests.ecosystem.worker ddp|fsdp NAME FOLDER`.

Trains a small model for three steps, each process on its half of the batch, and writes what one process can compare."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import convnextv2_fast as cf
from convnextv2_fast.adapters._swap import Accelerated
from tests.ecosystem.subjects import build, images

STEPS, BATCH = 3, 4
LABELS = torch.tensor([0, 3, 1, 2])


def train(model, rank=0, world=1):
    """The losses of all steps, over the whole batch."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    mine = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    losses = []
    for _ in range(STEPS):
        loss = F.cross_entropy(model(images(BATCH)[mine]), LABELS[mine])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total = loss.detach().clone()
        if world > 1:
            dist.all_reduce(total)
        losses.append(total.item() / world)
    return losses


def shard(model, world):
    """Every block, then the rest."""
    mesh = init_device_mesh("cpu", (world,))
    for m in list(model.modules()):
        if isinstance(m, cf.convnextv2.Block) or (isinstance(m, Accelerated) and hasattr(m, "drop_path")):
            fully_shard(m, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def main(mode, name, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    model = build(name).train()
    if mode == "ddp":
        model = DistributedDataParallel(model)
    else:
        model = shard(model, world)
        again = {r.reason for r in cf.accelerate(model).not_replaced}  # reports, and changes nothing
        assert name == "ours" or "accelerated already, then wrapped" in again, again
    losses = train(model, rank, world)
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    if mode == "fsdp":  # written sharded, read into another sharded model
        dcp.save(get_model_state_dict(model), checkpoint_id=str(folder / "dcp"))
        model = shard(build(name), world)
        fresh = get_model_state_dict(model)
        dcp.load(fresh, checkpoint_id=str(folder / "dcp"))
        set_model_state_dict(model, fresh)
    state = get_model_state_dict(model, options=whole)
    if rank == 0:
        torch.save({"losses": losses, "state": state}, folder / "done.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
