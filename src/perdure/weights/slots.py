"""The places of a module that a state dict fills: its parameters, persistent buffers and extra states."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Container, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from perdure.weights.aliases import Relations, Sharing, contiguous_stride, may_share, relate

Modules = list[tuple[str, nn.Module]]
"""Every module of a model with the prefix of its names."""

Versions = Mapping[str, dict[str, Any]]
"""The entries of `state_dict._metadata` by module."""


class ModelSlots(NamedTuple):
    """All places of a model.

    Attributes:
        by_name: every place's tensor object, which stays there; one that two modules share under each of its names.
        parameters: the names of those that are parameters.
        same: names whose tensor is another's object, or has exactly its memory, with that other.
        views: names whose tensor lies in a part of another's memory.
        in_place: names whose memory others of the model or other processes hold too, so that it must be kept.
        held: names whose memory somebody else holds too: views, arrays, state dicts that were taken before.
        overlapping: those of them that overlap with another in part.
        volatile: buffers that are not persistent, and so no places.
        modules: every module with the prefix of its names.
    """

    by_name: dict[str, torch.Tensor]
    parameters: frozenset[str]
    same: dict[str, str]
    views: dict[str, Sharing]
    in_place: frozenset[str]
    held: frozenset[str]
    overlapping: frozenset[str]
    volatile: dict[str, torch.Tensor]
    modules: Modules

    def first(self, name: str) -> str:
        """Return the first of the names that mean the same content as this one."""
        return self.same.get(name, name)

    def twins(self, name: str) -> list[str]:
        """Return the names that mean the same content as this one, itself included."""
        if not self.same:
            return [name]
        first = self.first(name)
        return [first, *(other for other, of in self.same.items() if of == first)]

    def implied(self, names: Collection[str]) -> set[str]:
        """Return the places that share the memory of something that has one of these names."""
        found = {twin for name in self.same for twin in self.twins(name) if _meet(names, self.twins(name))}
        return found | {name for name, view in self.views.items() if _meet(names, self.twins(view.of))}


def _meet(names: Collection[str], others: Collection[str]) -> bool:
    return any(name in names for name in others)


def find_slots(modules: Modules) -> ModelSlots:
    """Find all places of a model's modules and how they share memory."""
    by_name: dict[str, torch.Tensor] = {}
    for prefix, module in modules:
        by_name.update(slots_of(module, prefix))
    firsts: dict[int, str] = {}
    same = {name: first for name, tensor in by_name.items() if (first := firsts.setdefault(id(tensor), name)) != name}
    volatile = {name: buffer for name, buffer in _volatile(modules) if id(buffer) not in firsts}
    real = {
        name: tensor for name, tensor in {**by_name, **volatile}.items() if name not in same and _has_memory(tensor)
    }
    storages = {name: tensor.untyped_storage() for name, tensor in real.items()}
    relations = relate(real) if may_share(storages.values()) else Relations({}, [])
    views: dict[str, Sharing] = {}
    overlapping = {name for pair in relations.overlaps for name in pair if name in by_name}
    in_place = set(overlapping)
    held: set[str] = set()
    for name, storage in storages.items():
        if storage.is_shared():
            in_place.add(name)
        elif storage.nbytes() > real[name].nbytes or _has_other_holders(storage):
            held.add(name)
    for name, sharing in relations.aliases.items():
        in_place |= {name, sharing.of}
        if name in by_name and sharing.of in by_name:
            if _is_whole(sharing, by_name[sharing.of]):
                same[name] = sharing.of
            else:
                views[name] = sharing
    same = {name: same.get(first, first) for name, first in same.items()}
    in_place |= {name for name, first in same.items() if first in in_place}
    parameters = frozenset(prefix + key for prefix, module in modules for key, _ in module._parameters.items())
    return ModelSlots(
        by_name=by_name,
        parameters=parameters,
        same=same,
        views=views,
        in_place=frozenset(in_place),
        held=frozenset(held),
        overlapping=frozenset(overlapping),
        volatile=volatile,
        modules=modules,
    )


def modules_of(model: nn.Module) -> Modules:
    """Return every module with the prefix of its names, a shared one under each of its names."""
    found: Modules = []

    def visit(module: nn.Module, prefix: str) -> None:
        found.append((prefix, module))
        for name, child in module._modules.items():
            if child is not None:
                visit(child, f"{prefix}{name}.")

    visit(model, "")
    return found


def slots_of(module: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    """Return the places of one module, its children left out; `prefix` ends in a dot or is empty."""
    found: dict[str, torch.Tensor] = {
        prefix + key: tensor for key, tensor in module._parameters.items() if tensor is not None
    }
    if module._buffers:
        absent = module._non_persistent_buffers_set
        buffers = module._buffers.items()
        found.update({prefix + key: tensor for key, tensor in buffers if tensor is not None and key not in absent})
    return found


def _volatile(modules: Modules) -> list[tuple[str, torch.Tensor]]:
    """Return the buffers that are not persistent, one that several modules share under its first name."""
    found: dict[int, tuple[str, torch.Tensor]] = {}
    for prefix, module in modules:
        for key in module._non_persistent_buffers_set:
            buffer = module._buffers.get(key)
            if buffer is not None:
                found.setdefault(id(buffer), (prefix + key, buffer))
    return list(found.values())


def _has_other_holders(storage: torch.UntypedStorage) -> bool:
    """Ask PyTorch, which counts who holds a storage; what it counts where nobody else does is found out, not assumed."""
    return _count_holders is not None and _count_holders(storage._cdata) > _alone()


_count_holders: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)


@functools.cache
def _alone() -> int:
    alone = torch.empty(1, device="cpu")
    storage = alone.untyped_storage()
    return _count_holders(storage._cdata) if _count_holders else 0


def _is_whole(sharing: Sharing, owner: torch.Tensor) -> bool:
    shape = tuple(owner.shape)
    return sharing[1:] == (0, shape, contiguous_stride(shape))


def _has_memory(tensor: torch.Tensor) -> bool:
    plain = type(tensor) in PLAIN_TYPES and tensor.layout is torch.strided
    return plain and tensor.numel() > 0 and not tensor.is_meta and not tensor.is_quantized


PLAIN_TYPES = frozenset((torch.Tensor, nn.Parameter))


def missing_counters(modules: Modules, names: Container[str], versions: Callable[[], Versions]) -> list[str]:
    """Return the `num_batches_tracked` that a file from before batch norm counted need not have."""
    absent = [
        prefix
        for prefix, module in modules
        if isinstance(module, _NormBase)
        and module.num_batches_tracked is not None
        and f"{prefix}num_batches_tracked" not in names
        and f"{prefix}running_mean" in names
    ]
    known = versions() if absent else {}
    return [f"{prefix}num_batches_tracked" for prefix in absent if (known.get(prefix[:-1], {}).get("version") or 1) < 2]
