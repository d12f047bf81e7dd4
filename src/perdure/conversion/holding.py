"""An opened file becomes items for the disk again, and nothing is read until they are written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from functools import partial

import msgspec

from perdure.disk.memory import Piece
from perdure.disk.stored import Stored
from perdure.disk.streaming import BlockReader
from perdure.disk.writing import Item
from perdure.records.dtypes import ENCODED_BYTES, SHORT_NAMES
from perdure.records.manifest import Alias, Composed
from perdure.weights.aliases import contiguous_stride
from perdure.weights.dtypes import stored_shape, torch_shape
from perdure.weights.opening import Weights
from perdure.weights.storing import Holdings, Role, copied_pieces, hold


def held(weights: Weights) -> Holdings:
    """Return what an opened file holds, under the names that it has there.

    Stored tensors are read block by block; those that a reader makes (from big-endian or packed bytes) are tensors.
    """
    stored = weights.restorer.stored
    if not isinstance(stored, Stored):
        return hold({name: weights[name] for name in weights}, {})
    return _FromStored(weights, stored).holdings()


class _FromStored:
    """Takes over stored tensors as they are; of those that share memory or are composed, what the manifest says."""

    def __init__(self, weights: Weights, stored: Stored) -> None:
        self._weights = weights
        self._stored = stored
        self._reader = BlockReader(stored.where)
        manifest = stored.manifest
        self._aliases: Mapping[str, Alias] = manifest.aliases if manifest else {}
        self._composed: Mapping[str, Composed] = manifest.composed if manifest else {}
        self._overlaps = manifest.overlaps if manifest else ()
        self._held = Holdings()
        self._homes: dict[str, str] = {}

    def holdings(self) -> Holdings:
        names = self._weights.stored_names
        for name, old in names.items():
            if old in self._composed:
                self._compose(name, self._composed[old])
            elif old not in self._aliases:
                self._store(name, old)
        for name, old in names.items():
            if old in self._aliases:
                self._share(name, self._aliases[old])
        given = {old: name for name, old in names.items()}
        pairs = [(given[a], given[b]) for a, b in self._overlaps if a in given and b in given]
        self._held.overlaps = pairs
        return self._held

    def _store(self, name: str, old: str) -> None:
        file = self._stored.file_of(old)
        entry, record = file.header.entries[old], file.record(old)
        blocks = partial(self._reader.blocks, file, old)
        self._held.items.append(Item(name, entry.dtype, entry.shape, entry.n_bytes, blocks))
        self._homes[old] = name
        if record:
            self._held.roles[name] = Role(record.role, record.requires_grad)
            if record.dtype:
                self._held.encoded[name] = record.dtype
            if record.axes:
                self._held.axes[name] = record.axes

    def _compose(self, name: str, record: Composed) -> None:
        parts: dict[str, str] = {}
        for part, old in record.parts.items():
            if old not in self._homes:
                stored = f"{name}.{part}"
                while stored in self._weights or stored in self._held.roles:
                    stored += "_"
                self._store(stored, old)
            parts[part] = self._homes[old]
        self._held.composed[name] = msgspec.structs.replace(record, parts=parts)

    def _share(self, name: str, alias: Alias) -> None:
        """Keep a tensor in the memory of another; where a prefix leaves that one out, the first to need it has it."""
        role = Role(alias.role, alias.requires_grad)
        if alias.of in self._homes:
            self._held.aliases[name] = msgspec.structs.replace(alias, of=self._homes[alias.of])
        elif is_whole(alias, self._weights.restorer.stored_type(alias.of)[1]):
            self._store(name, alias.of)
            self._held.roles[name] = role
        else:
            alone = hold({name: self._weights[name]}, {name: role})
            self._held.items += alone.items
            self._held.roles |= alone.roles
            self._held.encoded |= alone.encoded


def is_whole(alias: Alias, shape: tuple[int, ...]) -> bool:
    """Tell whether a tensor is all of its owner, which has that shape, as it is."""
    return (alias.shape, alias.stride, alias.offset) == (shape, contiguous_stride(shape), 0)


def dtype_of(item: Item, holdings: Holdings) -> str:
    """Return the type of an item as PyTorch names it."""
    return holdings.encoded.get(item.name) or SHORT_NAMES[item.dtype]


def shape_of(item: Item, holdings: Holdings) -> tuple[int, ...]:
    """Return the shape of an item as PyTorch has it."""
    if item.name in holdings.encoded:
        return item.shape[:-1]
    return torch_shape(item.dtype, item.shape, item.name)


def expanded(holdings: Holdings, weights: Weights) -> Holdings:
    """Return the same with bytes of its own for every tensor that shares memory."""
    owners = {item.name: item for item in holdings.items}
    found = dataclasses.replace(
        holdings, items=list(holdings.items), encoded=dict(holdings.encoded), roles=dict(holdings.roles), aliases={}
    )
    for name, alias in holdings.aliases.items():
        owner = owners[alias.of]
        item_bytes = ENCODED_BYTES[dtype_of(owner, holdings)]
        shape = stored_shape(owner.dtype, alias.shape)
        if alias.of in holdings.encoded:
            found.encoded[name] = holdings.encoded[alias.of]
            shape = (*shape, item_bytes)
        n_bytes = math.prod(alias.shape) * item_bytes
        if alias.stride == contiguous_stride(alias.shape):
            made = partial(_stretch, owner, alias.offset * item_bytes, n_bytes)
        else:
            made = partial(_gathered, weights, name)
        found.items.append(Item(name, owner.dtype, shape, n_bytes, made))
        found.roles[name] = Role(alias.role, alias.requires_grad)
    return found


def _stretch(owner: Item, start: int, n_bytes: int) -> Iterator[Piece]:
    """Give some of an owner's bytes; all of them are read, so that they are verified."""
    position = 0
    for piece in owner.pieces():
        low, high = max(start, position), min(start + n_bytes, position + piece.n_bytes)
        if low < high:
            yield piece.part(low - position, high - position)
        position += piece.n_bytes


def _gathered(weights: Weights, name: str) -> Iterator[Piece]:
    return copied_pieces(weights[name])
