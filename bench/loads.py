"""The loads: into memory, by mapping, from a cold cache, and reading what was mapped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import models
import raw
from operations import Call, Work, operation

_SAFETENSORS = "torch safetensors.torch"

# --- loads into memory ---------------------------------------------------------------


@operation("load", "raw: 2 preadv threads, large pages", file="perdure")
def load_raw(work: Work) -> Call:
    """The limit of reading from the page cache."""
    return lambda: raw.read_parallel(work.files["perdure"])


@operation("load", "raw: open().read()", file="perdure")
def load_raw_plain(work: Work) -> Call:
    """A plain read of the whole file."""
    return lambda: raw.read_plain(work.files["perdure"])


@operation("load", "torch.load", imports="torch", file="torch")
def load_torch(work: Work) -> Call:
    """torch.load as it is called by default."""
    import torch

    return lambda: torch.load(work.files["torch"], weights_only=True)


@operation("load", "torch.load + load_state_dict", imports="torch", file="torch")
def load_torch_module(work: Work) -> Call:
    """What everyone writes, into a module that exists."""
    import torch

    target = models.initialised(work.model)

    def call() -> Any:
        target.load_state_dict(torch.load(work.files["torch"], weights_only=True))
        return target.eval()

    return call


@operation("load", "safetensors load_file, pread", imports=_SAFETENSORS, file="safetensors")
def load_safetensors_pread(work: Work) -> Call:
    """safetensors' mode that reads into memory of its own."""
    from safetensors.torch import load_file

    return lambda: load_file(work.files["safetensors"], backend="pread")


@operation("load", "safetensors load_file + load_state_dict", imports=_SAFETENSORS, file="safetensors")
def load_safetensors_module(work: Work) -> Call:
    """safetensors' default mode, copied into a module that exists."""
    from safetensors.torch import load_file

    target = models.initialised(work.model)

    def call() -> Any:
        target.load_state_dict(load_file(work.files["safetensors"]))
        return target.eval()

    return call


@operation("load", "perdure.load_weights, model on meta", imports="torch perdure:load_weights", file="perdure")
def load_perdure_meta(work: Work) -> Call:
    """Our load with the checksum verified, into a model built on meta."""
    return _load_perdure(work, "meta")


@operation("load", "perdure.load_weights, model in memory", imports="torch perdure:load_weights", file="perdure")
def load_perdure_module(work: Work) -> Call:
    """Our load with the checksum verified, into a module that exists."""
    return _load_perdure(work, "cpu")


@operation("load", "perdure.load_weights, verify=False", imports="torch perdure:load_weights", file="perdure")
def load_perdure_unchecked(work: Work) -> Call:
    """Our load without the checksum."""
    return _load_perdure(work, "meta", verify=False)


@operation("load", 'perdure.load_weights, verify="full"', imports="torch perdure:load_weights", file="perdure")
def load_perdure_full(work: Work) -> Call:
    """Our load with BLAKE3 verified as well."""
    return _load_perdure(work, "meta", verify="full")


def _load_perdure(work: Work, device: str, **options: Any) -> Call:
    import perdure

    target = models.module(work.model, "meta") if device == "meta" else models.initialised(work.model)

    def call() -> Any:
        perdure.load_weights(target, work.files["perdure"], **options)
        return target

    return call


# --- loads by mapping ----------------------------------------------------------------


@operation("map", "torch.load(mmap=True)", imports="torch", file="torch")
def map_torch(work: Work) -> Call:
    """torch's mapped load."""
    import torch

    return lambda: torch.load(work.files["torch"], weights_only=True, mmap=True)


@operation("map", "safetensors.torch.load_file", imports=_SAFETENSORS, file="safetensors")
def map_safetensors(work: Work) -> Call:
    """safetensors' default mode: tensors over the mapped file."""
    from safetensors.torch import load_file

    return lambda: load_file(work.files["safetensors"])


@operation("map", "perdure.open", imports="torch perdure:open", file="perdure")
def map_perdure(work: Work) -> Call:
    """Our open alone: header read and checked, nothing handed out."""
    import perdure

    return lambda: perdure.open(work.files["perdure"])


@operation("map", "perdure.open, every tensor handed out", imports="torch perdure:open", file="perdure")
def map_perdure_all(work: Work) -> Call:
    """Our open, with every tensor taken from it."""
    import perdure

    return lambda: dict(perdure.open(work.files["perdure"]))


# --- reading everything --------------------------------------------------------------


def _use_operations(suffix: str, how: str, read: Callable[[list[Any]], int]) -> None:
    """Register the three operations that read everything in one way."""

    def in_memory(work: Work) -> Call:
        tensors = list(models.fill(models.module(work.model)).state_dict().values())
        return lambda: read(tensors)

    def perdure_mapped(work: Work) -> Call:
        import perdure

        return _mapped(work, lambda: dict(perdure.open(work.files["perdure"])), read)

    def safetensors_mapped(work: Work) -> Call:
        from safetensors.torch import load_file

        return _mapped(work, lambda: load_file(work.files["safetensors"]), read)

    for prepare, label, imports, file in (
        (in_memory, "a model in memory", "torch numpy", "perdure"),
        (perdure_mapped, "perdure.open into a module", "torch numpy perdure:open", "perdure"),
        (safetensors_mapped, "safetensors load_file into a module", _SAFETENSORS + " numpy", "safetensors"),
    ):
        prepare.__name__ = f"use_{prepare.__name__}_{suffix}"
        operation("use", f"{label}, {how}", imports=imports, file=file)(prepare)


def _mapped(work: Work, load: Callable[[], dict[str, Any]], read: Callable[[list[Any]], int]) -> Call:
    target = models.module(work.model, "meta")

    def call() -> int:
        target.load_state_dict(load(), assign=True)
        return read(list(target.state_dict().values()))

    return call


_use_operations("bytes", "every byte summed", models.sum_bytes)
_use_operations("words", "64-bit words summed", models.sum_words)


# --- cold cache ----------------------------------------------------------------------


@operation("cold", "raw: O_DIRECT read on 4 threads", file="perdure")
def cold_raw(work: Work) -> Call:
    """The limit of reading from the disk."""
    return lambda: raw.read_parallel(work.files["perdure"], n_threads=4, direct=True)


@operation("cold", "torch.load", imports="torch", file="torch")
def cold_torch(work: Work) -> Call:
    """torch.load from the disk."""
    return load_torch(work)


@operation("cold", "safetensors load_file, pread", imports=_SAFETENSORS, file="safetensors")
def cold_safetensors(work: Work) -> Call:
    """safetensors' reading mode from the disk."""
    return load_safetensors_pread(work)


@operation("cold", "perdure.load_weights, model on meta", imports="torch perdure:load_weights", file="perdure")
def cold_perdure(work: Work) -> Call:
    """Our load, checksum verified, from the disk."""
    return _load_perdure(work, "meta")
