"""The two models of the bench: 1 GiB in 200 mixed tensors, and 1 MB in 150 tensors of a small convnet."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

N_BYTES = {"big": 1 << 30}
_ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int64": 8}
_LARGEST_BYTES = 48 << 20
_USUAL_FROM_BYTES = 128 << 10
_PARTS = ("attention.query", "attention.output", "mlp.up", "mlp.down", "norm")


@dataclass(frozen=True)
class Entry:
    """One tensor of the big model: its dotted name, dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        """Size of the tensor's data in bytes."""
        n = _ELEMENT_BYTES[self.dtype]
        for size in self.shape:
            n *= size
        return n


def big_entries() -> list[Entry]:
    """The big model: 4 scalars, 26 tiny tensors and 170 from 16 KiB to 48 MiB, exactly 1 GiB together."""
    rng = random.Random(7)
    sizes = [0] * 4 + [rng.randrange(4, 2000) for _ in range(26)]
    sizes += [int(16384 * (_LARGEST_BYTES / 16384) ** rng.random()) for _ in range(170)]
    rng.shuffle(sizes)
    entries = []
    for i, size in enumerate(sizes):
        dtype = rng.choices(list(_ELEMENT_BYTES), weights=(4, 3, 2, 1))[0]
        name = f"layers.{i // 5}.{_PARTS[i % 5]}.{'table' if dtype == 'int64' else 'weight'}"
        entries.append(Entry(name, dtype, _shape(size // _ELEMENT_BYTES[dtype], size, rng)))
    return _filled_up(entries)


def _shape(n_elements: int, size: int, rng: random.Random) -> tuple[int, ...]:
    """A shape of about `n_elements`: scalars for size 0, else one or two dimensions.

    Small tensors often have odd sizes, as biases and heads do; large ones are of the usual widths.
    """
    if size == 0:
        return ()
    n_columns = rng.choice((1, 10, 64, 100, 256, 1000) if size < _USUAL_FROM_BYTES else (64, 256, 768, 1024))
    if n_columns == 1 or n_elements < 2 * n_columns:
        return (max(1, n_elements),)
    return (n_elements // n_columns, n_columns)


def _filled_up(entries: list[Entry]) -> list[Entry]:
    """Scale the tensors between 64 KiB and 16 MiB so that the model has exactly 1 GiB."""
    middle = [i for i, e in enumerate(entries) if _USUAL_FROM_BYTES < e.n_bytes < 16 << 20 and len(e.shape) == 2]
    rest = N_BYTES["big"] - sum(e.n_bytes for e in entries)
    scale = 1 + rest / sum(entries[i].n_bytes for i in middle)
    for i in middle:
        e = entries[i]
        entries[i] = Entry(e.name, e.dtype, (max(1, int(e.shape[0] * scale)), e.shape[1]))
    last = next(i for i in middle if entries[i].dtype == "float16")
    rest = N_BYTES["big"] - sum(e.n_bytes for i, e in enumerate(entries) if i != last)
    entries[last] = Entry(entries[last].name, "float16", (rest // 2,))
    return entries


def big_module(device: str) -> Any:
    """The big model as a tree of plain modules: floats are parameters, integers are buffers."""
    import torch

    root = torch.nn.Module()
    for entry in big_entries():
        *path, leaf = entry.name.split(".")
        tensor = torch.empty(entry.shape, dtype=getattr(torch, entry.dtype), device=device)
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module._modules[part]
        if entry.dtype == "int64":
            module.register_buffer(leaf, tensor)
        else:
            module.register_parameter(leaf, torch.nn.Parameter(tensor))
    return root


def small_module(device: str) -> Any:
    """The small model: 24 convolutions with batch norm, a stem and two linear layers; 150 tensors, 1 MB."""
    import torch
    from torch import nn

    with torch.device(device):
        blocks = [nn.Sequential(nn.Conv2d(32, 32, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU()) for _ in range(24)]
        return nn.Sequential(nn.Conv2d(3, 32, 3), *blocks, nn.Linear(32, 64), nn.Linear(64, 10))


def module(model: str, device: str = "cpu") -> Any:
    """Build `model` ("big" or "small") on `device`; the values are whatever the memory held."""
    return big_module(device) if model == "big" else small_module(device)


def initialised(model: str) -> Any:
    """The model in memory as a constructor leaves it: every page of it touched."""
    built = module(model)
    for tensor in built.state_dict().values():
        tensor.zero_()
    return built


def fill(built: Any, seed: int = 1) -> Any:
    """Give every tensor of a module the same random bytes on every call; returns the module."""
    import numpy as np

    rng = np.random.Generator(np.random.PCG64(seed))
    for tensor in built.state_dict().values():
        flat = np.frombuffer(_memory(tensor), dtype=np.uint8)
        flat[:] = np.frombuffer(rng.bytes(flat.size), dtype=np.uint8)
    return built


def checksum(tensors: dict[str, Any]) -> str:
    """One digest of the names and bytes of CPU tensors, to see that an operation loaded what was saved."""
    import xxhash

    digest = xxhash.xxh3_64()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(_memory(tensors[name].contiguous()))
    return digest.hexdigest()


def sum_bytes(tensors: list[Any]) -> int:
    """Read every byte of the tensors: the sum of all bytes, on one thread."""
    import numpy as np

    return sum(int(np.frombuffer(_memory(tensor), np.uint8).sum(dtype=np.uint64)) for tensor in tensors)


def sum_words(tensors: list[Any]) -> int:
    """Read every byte in the fastest way there is: the sum of 64-bit words, on every thread of torch."""
    import torch

    total = 0
    for tensor in tensors:
        flat = tensor.detach().reshape(-1).view(torch.uint8)
        whole = flat.numel() // 8 * 8
        total += int(flat[:whole].view(torch.int64).sum()) + int(flat[whole:].sum())
    return total


def _memory(tensor: Any) -> Any:
    """The memory of a contiguous CPU tensor, without a copy."""
    import ctypes

    return (ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())
