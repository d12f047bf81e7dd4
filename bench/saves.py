"""The saves: torch, safetensors, perdure and what the disk can do."""

from __future__ import annotations

import os
from typing import Any

import models
import raw
from operations import Call, Work, operation


def _source(work: Work) -> Any:
    return models.fill(models.module(work.model))


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


@operation("save", "torch.save + fsync", imports="torch numpy")
def save_torch_fsync(work: Work) -> Call:
    """torch.save to an open file, flushed and fsynced."""
    import torch

    source = _source(work)

    def call() -> None:
        with open(work.target, "wb") as file:
            torch.save(source.state_dict(), file)
            file.flush()
            os.fsync(file.fileno())

    return call


@operation("save", "torch.save, not durable", imports="torch numpy")
def save_torch(work: Work) -> Call:
    """What everyone writes: torch.save to a path."""
    import torch

    source = _source(work)
    return lambda: torch.save(source.state_dict(), work.target)


@operation("save", "safetensors.save_file + fsync", imports="torch numpy safetensors.torch")
def save_safetensors_fsync(work: Work) -> Call:
    """safetensors' writer, then an fsync of the file."""
    from safetensors.torch import save_file

    source = _source(work)

    def call() -> None:
        save_file(source.state_dict(), work.target)
        _sync(work.target)

    return call


@operation("save", "perdure.save_weights", imports="torch numpy perdure:save_weights")
def save_perdure(work: Work) -> Call:
    """Our save: both digests, durable, atomic."""
    import perdure

    source = _source(work)
    return lambda: perdure.save_weights(source, work.target)


@operation("save", "raw: preallocate, pwrite, fsync")
def save_raw_plain(work: Work) -> Call:
    """The limit through the page cache."""
    memory = raw.random_memory(_n_bytes(work))
    return lambda: raw.write_plain(memory, work.target)


@operation("save", "raw: preallocate, O_DIRECT on 4 threads, fsync")
def save_raw_direct(work: Work) -> Call:
    """The limit around the page cache."""
    memory = raw.random_memory(_n_bytes(work))
    return lambda: raw.write_direct(memory, work.target)


def _n_bytes(work: Work) -> int:
    return os.path.getsize(work.files["safetensors"])
