"""Folders of `torch.distributed.checkpoint`, written by PyTorch itself: in one process, and in several at once."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

N_RANKS = 4


def numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Return numbers that are the same in every process."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-100, 100, shape, generator=generator).to(dtype)


def tensors() -> dict[str, torch.Tensor]:
    """Return the tensors of the folder `sharded`, by how they are cut."""
    return {
        "rows": numbers(8, 3, seed=1),
        "uneven": numbers(7, 5, dtype=torch.float64, seed=2),
        "few": numbers(2, 3, seed=3),
        "columns": numbers(5, 8, 2, dtype=torch.bfloat16, seed=4),
        "last": numbers(3, 2, 9, dtype=torch.int16, seed=5),
        "whole": numbers(4, 4, seed=6),
        "grid": numbers(6, 10, seed=7),
        "middle": numbers(3, 6, 4, dtype=torch.int8, seed=8),
        "turned": numbers(6, 4, seed=9).t(),
        "scalar": torch.tensor(3.5),
        "narrow": numbers(3000, 4, dtype=torch.float16, seed=10),
    }


def model() -> nn.Module:
    """Return a model, the same in every process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Sequential(nn.Linear(10, 3), nn.LayerNorm(3)))


def save(state: dict[str, Any], folder: Path, **options: Any) -> None:
    """Save a nesting from this process alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=folder, no_dist=True, **options)


def save_from_ranks(folder: Path) -> None:
    """Write the folders `sharded`, `safetensors` and `fsdp` from several processes, which begin as copies of a fresh one."""
    subprocess.run([sys.executable, __file__, str(folder)], check=True, timeout=300)


def _run(rank: int, folder: str) -> None:
    warnings.simplefilter("ignore")
    os.environ.update(GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=N_RANKS)
    try:
        line, square = init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2))
        cuts: dict[str, tuple[Any, list[Any]]] = {
            **dict.fromkeys(("rows", "uneven", "few", "narrow"), (line, [Shard(0)])),
            "columns": (line, [Shard(1)]),
            "last": (line, [Shard(2)]),
            "whole": (line, [Replicate()]),
            "grid": (square, [Shard(0), Shard(1)]),
            "middle": (square, [Shard(1), Replicate()]),
            "turned": (line, [Shard(0)]),
        }
        cuts["narrow"] = (line, [Shard(1)])
        state = {
            name: distribute_tensor(t, *cuts[name], src_data_rank=None) if name in cuts else t
            for name, t in tensors().items()
        }
        dcp.save({"state_dict": state, "step": 7}, checkpoint_id=f"{folder}/sharded")
        cut = {name: tensor for name, tensor in state.items() if name in cuts}
        writer = dcp.HuggingFaceStorageWriter(f"{folder}/safetensors", save_distributed=True)
        dcp.save(cut, storage_writer=writer)
        net = model()
        fully_shard(net, mesh=line)
        optimizer = torch.optim.AdamW(net.parameters())
        net(torch.ones(2, 6)).sum().backward()
        optimizer.step()
        weights, moments = get_state_dict(net, optimizer)
        dcp.save({"model": weights, "optim": moments}, checkpoint_id=f"{folder}/fsdp")
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.start_processes(_run, (sys.argv[1],), nprocs=N_RANKS, start_method="fork")
