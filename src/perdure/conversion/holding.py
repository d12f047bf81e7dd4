"""An opened file becomes items for the disk again, and nothing is read until they are written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from functools import partial

import msgspec

from perdure.disk.memory import Piece
from perdure.disk.stored import StoredTensors
from perdure.disk.streaming import BlockReader
from perdure.disk.writing import Item
from perdure.records.dtypes import ENCODED_BYTES, SHORT_NAMES, STORED_NAMES
from perdure.records.manifest import PARTS, Alias, Composed
from perdure.weights.aliases import contiguous_stride
from perdure.weights.dtypes import stored_shape, torch_shape
from perdure.weights.opening import Weights
from perdure.weights.storing import NO_ROLE, Holdings, Role, copied_pieces, hold


def held(weights: Weights) -> Holdings:
    """Return what an opened file holds, under the names that it has there.

    Stored tensors are read block by block; one that is made of another writer's blocks is made when it is due.
    """
    return _FromStored(weights, weights.restorer.stored).holdings()


class _FromStored:
    """Takes over stored tensors as they are; of those that share memory or are composed, what the manifest says."""

    def __init__(self, weights: Weights, stored: StoredTensors) -> None:
        self._weights = weights
        self._stored = stored
        self._reader = BlockReader(stored.where)
        self._overlaps = stored.manifest.overlaps if stored.manifest else ()
        self._held = Holdings()
        self._homes: dict[str, str] = {}

    def holdings(self) -> Holdings:
        names, stored = self._weights.stored_names, self._stored
        for name, old in names.items():
            if old in stored.composed:
                self._compose(name, stored.composed[old])
            elif old not in stored.aliases:
                self._store(name, old)
        homeless: dict[str, list[str]] = {}
        for name, old in names.items():
            alias = stored.aliases.get(old)
            if alias and alias.of in stored.hidden:
                homeless.setdefault(alias.of, []).append(name)
            elif alias:
                self._share(name, alias)
        for together in homeless.values():
            self._hold(together)
        given = {old: name for name, old in names.items()}
        pairs = [(given[a], given[b]) for a, b in self._overlaps if a in given and b in given]
        self._held.overlaps += pairs
        return self._held

    def _store(self, name: str, old: str) -> None:
        file = self._stored.file_of(old)
        entry, record = file.header.entries[old], file.record(old)
        blocks = partial(self._reader.blocks, file, old)
        self._held.items.append(Item(name, entry.dtype, entry.shape, entry.n_bytes, blocks))
        self._homes[old] = name
        if file.encoded_type(old):
            self._held.encoded[name] = file.encoded_type(old)
        if record:
            self._held.roles[name] = Role(record.role, record.requires_grad)
            if record.axes:
                self._held.axes[name] = record.axes
        elif file.roles.get(old):
            self._held.roles[name] = Role(file.roles[old], file.roles[old] == "parameter")

    def _compose(self, name: str, record: Composed) -> None:
        if record.layout not in PARTS:
            self._make_when_due(name)
            return
        if any(old not in self._stored for old in record.parts.values()):
            self._hold([name])
            return
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
            self._hold([name], role)

    def _hold(self, names: list[str], role: Role = NO_ROLE) -> None:
        """Take tensors as they are in memory, with what they share among them."""
        made = hold({name: self._weights[name] for name in names}, dict.fromkeys(names, role))
        self._held.items += made.items
        for field in ("roles", "encoded", "axes", "aliases", "composed"):
            getattr(self._held, field).update(getattr(made, field))
        self._held.overlaps += made.overlaps

    def _make_when_due(self, name: str) -> None:
        """Take a tensor that is made of another writer's blocks: it is made when it is written."""
        spec = self._weights.spec(name)
        n_bytes = math.prod(spec.shape) * ENCODED_BYTES[spec.dtype]
        stored = STORED_NAMES.get(spec.dtype)
        if stored is None:
            self._hold([name])
            return
        self._held.items.append(Item(name, stored, spec.shape, n_bytes, partial(_gathered, self._weights, name)))


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
