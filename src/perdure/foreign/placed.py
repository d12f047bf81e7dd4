"""The tensors of another writer's file as the ones of ours are described: stored bytes, and what is derived from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from perdure.disk.digests import Crc32
from perdure.disk.header import Entry, Header
from perdure.disk.sources import ByteSource
from perdure.disk.stored import StoredFile, StoredTensors
from perdure.foreign.inert import ComposedTensor, Content, Storage, Tensor
from perdure.foreign.shapes import contiguous_stride
from perdure.foreign.states import AnyTensor, State, find_state, missing_under, state_under, tensors_in
from perdure.records.dtypes import BITS, ENCODED_BYTES, STORED_NAMES
from perdure.records.manifest import Alias, Composed


class ForeignStored(StoredTensors):
    """A file of another writer: the tensors of its state dict by name, all others by hidden names.

    Attributes:
        content: what the reader found.
        state: its state dict, and what else it holds.
        name_of: the name of each tensor in the file, by the `id` of its record.
    """

    def __init__(self, content: Content, where: str) -> None:
        super().__init__(where)
        self.content, self.format, self.files = content, content.format, content.files
        self.select(None)

    def select(self, prefix: str | None) -> str | None:
        """Take the state dict that a prefix leads to, or the evident one.

        Returns:
            What is left of the prefix, with which names in that state dict begin.
        """
        found = find_state(self.content.value, self.where)
        if prefix and not any(name.startswith(f"{prefix.rstrip('.')}.") for name in found.tensors):
            under = state_under(self.content.value, prefix, self.where)
            if under is None:
                raise missing_under(prefix, self.content.value, self.where)
            found, prefix = under
        self._place(found)
        return prefix or None

    def _place(self, state: State) -> None:
        placing = _Placing(state.roles)
        for name, tensor in state.tensors.items():
            placing.add(name, tensor)
        for number, tensor in enumerate(tensors_in(self.content.value)):
            if id(tensor) not in placing.name_of:
                placing.add(f"\0{number}", tensor)
        placing.finish()
        self.state, self.name_of = state, placing.name_of
        self.aliases, self.composed, self.hidden = placing.aliases, placing.composed, placing.hidden
        self._opened = placing.files()
        self._shard_of = placing.file_of

    def tensor_names(self) -> tuple[str, ...]:
        return tuple(self.state.tensors)

    def opened_files(self) -> Iterable[StoredFile]:
        return self._opened.values()

    @property
    def n_unnamed(self) -> int:
        """How many tensors are neither in the state dict nor beside it: attributes of modules that no `state_dict` has."""
        beside = {self.name_of[id(tensor)] for tensor in tensors_in(self.state.rest)}
        return len({name for name in self.name_of.values() if name.startswith("\0")} - beside)

    @property
    def versions(self) -> Mapping[str, Any]:
        return self.state.versions

    @property
    def extra_states(self) -> Mapping[str, Any]:
        return self.state.extra_states

    def sources(self) -> Iterable[ByteSource]:
        return self.content.sources

    def close(self) -> None:
        for source in self.content.sources:
            source.close()


class _Placing:
    """Gives each storage one stored tensor, which is the first that fills it, and makes of all others its aliases."""

    def __init__(self, roles: Mapping[str, str]) -> None:
        self._roles = roles
        self.name_of: dict[int, str] = {}
        self.aliases: dict[str, Alias] = {}
        self.composed: dict[str, Composed] = {}
        self.hidden: set[str] = set()
        self.file_of: dict[str, str] = {}
        self._dense: dict[tuple[int, str], list[tuple[str, Tensor]]] = {}
        self._order: dict[str, None] = {}
        self._entries: dict[ByteSource, dict[str, Entry]] = {}
        self._encoded: dict[ByteSource, dict[str, str]] = {}
        self._checksums: dict[ByteSource, dict[str, Crc32]] = {}

    def add(self, name: str, tensor: AnyTensor, *, hidden: bool = False) -> None:
        """Take a tensor."""
        self.name_of.setdefault(id(tensor), name)
        if hidden or name.startswith("\0"):
            self.hidden.add(name)
        if isinstance(tensor, ComposedTensor):
            self._compose(name, tensor, tensor.parts)
        elif tensor.marks:
            bare = Tensor(tensor.storage, tensor.dtype, tensor.shape, tensor.stride, tensor.offset)
            marked = ComposedTensor(" ".join(tensor.marks), tensor.shape, {}, role=tensor.role)
            self._compose(name, marked, {"values": bare})
        else:
            self._order[name] = None
            self._dense.setdefault((id(tensor.storage), tensor.dtype), []).append((name, tensor))

    def _compose(self, name: str, tensor: ComposedTensor, parts: Mapping[str, Tensor]) -> None:
        names = {}
        for part, inner in parts.items():
            names[part] = f"{name}\0{part}"
            self.add(names[part], inner, hidden=True)
        fields = {field: getattr(tensor, field) for field in Composed.__struct_fields__ if field != "parts"}
        self.composed[name] = Composed(parts=names, **fields)

    def finish(self) -> None:
        """Lay out every storage, in the order of the names."""
        owned: dict[str, tuple[Storage, str, tuple[int, ...]]] = {}
        for (_, dtype), tensors in self._dense.items():
            storage = tensors[0][1].storage
            item_bytes = ENCODED_BYTES[dtype]
            owner = next((name for name, tensor in tensors if _fills(tensor, item_bytes)), None)
            if owner is None:
                owner = f"{tensors[0][0]}\0memory"
                self.hidden.add(owner)
                owned[owner] = (storage, dtype, (storage.n_bytes // item_bytes,))
            for name, tensor in tensors:
                if name == owner:
                    owned[owner] = (storage, dtype, tensor.shape)
                else:
                    role, gradient = self._roles.get(name, ""), tensor.requires_grad
                    self.aliases[name] = Alias(owner, tensor.shape, tensor.stride, tensor.offset, role, gradient)
        in_order = [name for name in self._order if name in owned]
        for name in (*in_order, *(name for name in owned if name not in self._order)):
            self._store(name, *owned[name])

    def _store(self, name: str, storage: Storage, dtype: str, shape: tuple[int, ...]) -> None:
        item_bytes = ENCODED_BYTES[dtype]
        stop = storage.position + math.prod(shape) * item_bytes
        if storage.crc32 is not None and stop - storage.position == storage.n_bytes:
            self._checksums.setdefault(storage.source, {})[name] = Crc32(storage.crc32)
        stored = STORED_NAMES.get(dtype)
        if stored is None or BITS[stored] % 8:
            self._encoded.setdefault(storage.source, {})[name] = dtype
            stored, shape = "U8", (*shape, item_bytes)
        self._entries.setdefault(storage.source, {})[name] = Entry(stored, shape, (storage.position, stop))

    def files(self) -> dict[str, StoredFile]:
        """Return what was opened, by a key of its own, with the tensors that lie in it."""
        found: dict[str, StoredFile] = {}
        for number, (source, entries) in enumerate(self._entries.items()):
            header = Header(entries, {}, 0, sum(entry.n_bytes for entry in entries.values()))
            encoded, checksums = self._encoded.get(source, {}), self._checksums.get(source, {})
            found[str(number)] = StoredFile(source, header, encoded=encoded, checksums=checksums, roles=self._roles)
            self.file_of.update(dict.fromkeys(entries, str(number)))
        return found


def _fills(tensor: Tensor, item_bytes: int) -> bool:
    """Tell whether a tensor is all of its storage, in order."""
    n_bytes = math.prod(tensor.shape) * item_bytes
    plain = tensor.offset == 0 and tensor.stride == contiguous_stride(tensor.shape)
    return plain and n_bytes == tensor.storage.n_bytes
