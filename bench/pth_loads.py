"""What torch.save wrote, read by torch and by perdure: into memory, and mapped with every byte summed."""

from __future__ import annotations

from typing import Any

import models
import raw
from operations import Call, Work, operation


@operation("pth", "raw: 2 preadv threads, large pages", file="torch")
def pth_raw(work: Work) -> Call:
    """The limit of reading from the page cache."""
    return lambda: raw.read_parallel(work.files["torch"])


@operation("pth", "torch.load", imports="torch", file="torch")
def pth_torch(work: Work) -> Call:
    """torch.load as it is called by default: into memory, no checksum compared."""
    import torch

    return lambda: torch.load(work.files["torch"], weights_only=True)


@operation("pth", "perdure.load_checkpoint, CRC-32 compared", imports="torch perdure:load_checkpoint", file="torch")
def pth_perdure(work: Work) -> Call:
    """The same tensors in memory of their own, with the archive's checksums compared."""
    import perdure

    return lambda: perdure.load_checkpoint(work.files["torch"])


@operation("pth", "perdure.open(map=False), every tensor read", imports="torch perdure:open", file="torch")
def pth_perdure_read(work: Work) -> Call:
    """One tensor after another into memory of its own, with its checksum compared."""
    import perdure

    return lambda: dict(perdure.open(work.files["torch"], map=False))


@operation("pth", "perdure.load_weights, model on meta", imports="torch perdure:load_weights", file="torch")
def pth_perdure_module(work: Work) -> Call:
    """Into a model built on meta, with the archive's checksums compared."""
    import perdure

    target = models.module(work.model, "meta")

    def call() -> Any:
        perdure.load_weights(target, work.files["torch"])
        return target

    return call


@operation("pth", "torch.load, 64-bit words summed", imports="torch", file="torch")
def pth_torch_summed(work: Work) -> Call:
    """Open and read all, through memory."""
    import torch

    return lambda: models.sum_words(list(torch.load(work.files["torch"], weights_only=True).values()))


@operation("pth", "torch.load(mmap=True), 64-bit words summed", imports="torch", file="torch")
def pth_torch_mapped(work: Work) -> Call:
    """Open and read all, mapped."""
    import torch

    return lambda: models.sum_words(list(torch.load(work.files["torch"], weights_only=True, mmap=True).values()))


@operation("pth", "perdure.open, 64-bit words summed", imports="torch perdure:open", file="torch")
def pth_perdure_mapped(work: Work) -> Call:
    """Open and read all, mapped."""
    import perdure

    return lambda: models.sum_words(list(perdure.open(work.files["torch"]).values()))
