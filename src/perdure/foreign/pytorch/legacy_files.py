"""What `torch.save` wrote before PyTorch 1.6, and still writes on request: pickles one after another, then the storages.

The pickles are a magic number, a protocol number, facts about the machine, the value itself and the list of storages;
each storage is its number of elements (int64) and its bytes, without alignment.
"""

from __future__ import annotations

import struct
from typing import Any

from perdure.disk.faults import broken
from perdure.disk.sources import ByteSource, BytesSource
from perdure.foreign.byte_order import swapped
from perdure.foreign.inert import Content, Storage, TypedStorage, Use
from perdure.foreign.pickles.interpreting import interpret
from perdure.foreign.pytorch.storages import ITEM_BYTES, StorageId, number_bytes, storage_id

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
BEGINNING = bytes.fromhex("8a0a6cfc9c46f9206aa85019")
"""The magic number as a pickle of protocol 2 has it, behind its two bytes of protocol."""


def is_torch_legacy(first: bytes) -> bool:
    """Tell from the first bytes of a file whether it is of this format."""
    return first[:1] == b"\x80" and BEGINNING in first[:32]


def read_torch_legacy(source: ByteSource, uses: list[Use]) -> Content:
    """Read a file of the format before 1.6.

    Args:
        source: the file.
        uses: receives what the pickles name, also where reading fails.

    Raises:
        CorruptError: it contradicts itself, or was cut off.
        UnsafeError, LimitError: as `interpret`.
    """
    where = source.where
    position, head = 0, []
    for _ in range(3):
        found = interpret(source, position, source.n_bytes, where, uses=uses)
        head.append(found.value)
        position = found.end
    magic, protocol, facts = head
    if magic != MAGIC_NUMBER or protocol != _PROTOCOL or not isinstance(facts, dict):
        raise broken(where, f"it begins like a file of torch.save, but its protocol is {str(protocol)[:40]!r}.")
    declared = _Declared(where)
    value_at = position
    position = interpret(source, value_at, source.n_bytes, where, persistent=declared, uses=uses).end
    keys = interpret(source, position, source.n_bytes, where, uses=uses)
    if not isinstance(keys.value, list):
        raise broken(where, "its list of storages is no list.")
    storages = _locate(source, keys.end, keys.value, declared.sizes, swap=facts.get("little_endian") is False)
    value = interpret(source, value_at, source.n_bytes, where, persistent=_Located(storages, where), uses=[]).value
    return Content("torch file of the format before 1.6", value, facts={"protocol": _PROTOCOL})


_NOWHERE = BytesSource(b"")


class _Declared:
    """Notes the type and size of each storage on a first way through the pickle, when nothing says where it is."""

    def __init__(self, where: str) -> None:
        self._where = where
        self.sizes: dict[str, StorageId] = {}

    def __call__(self, pid: Any) -> Any:
        if _is_source(pid):
            return pid[1]
        wanted = storage_id(pid, self._where)
        first = self.sizes.setdefault(wanted.key, wanted)
        if (first.dtype, first.n_elements) != (wanted.dtype, wanted.n_elements):
            raise broken(self._where, f"its pickle contradicts itself on the storage {wanted.key[:40]!r}.")
        return _typed(Storage(_NOWHERE, 0, wanted.n_elements * ITEM_BYTES[wanted.dtype]), wanted, self._where)


class _Located:
    """Gives the storage that a persistent id stands for, on the second way through the pickle."""

    def __init__(self, storages: dict[str, Storage], where: str) -> None:
        self._storages, self._where = storages, where
        self._views: dict[tuple[str, int, int], TypedStorage] = {}

    def __call__(self, pid: Any) -> Any:
        if _is_source(pid):
            return pid[1]
        wanted = storage_id(pid, self._where)
        storage = self._storages.get(wanted.key)
        if storage is None:
            raise broken(self._where, f"the storage {wanted.key[:40]!r} is not in its list.")
        if wanted.view is None:
            return TypedStorage(storage, wanted.dtype)
        return self._views.setdefault(wanted.view, _typed(storage, wanted, self._where))


def _is_source(pid: Any) -> bool:
    """Tell the id of a module's class, which brings the text of its source, from that of a storage."""
    return isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module"


def _typed(storage: Storage, wanted: StorageId, where: str) -> TypedStorage:
    if wanted.view is None:
        return TypedStorage(storage, wanted.dtype)
    _, first, n_elements = wanted.view
    if not 0 <= first <= first + n_elements <= wanted.n_elements:
        raise broken(where, f"a view of the storage {wanted.key[:40]!r} reaches beyond it.")
    item_bytes = ITEM_BYTES[wanted.dtype]
    part = Storage(storage.source, storage.position + first * item_bytes, n_elements * item_bytes)
    return TypedStorage(part, wanted.dtype)


def _locate(
    source: ByteSource, position: int, keys: list[Any], sizes: dict[str, StorageId], *, swap: bool
) -> dict[str, Storage]:
    """Find each storage behind the pickles, in the order of the list."""
    found: dict[str, Storage] = {}
    for key in keys:
        declared = sizes.get(str(key))
        if declared is None or str(key) in found:
            raise broken(source.where, f"its list of storages names {str(key)[:40]!r}, which is none, or twice.")
        item_bytes = ITEM_BYTES[declared.dtype]
        n_bytes = declared.n_elements * item_bytes
        if position + 8 + n_bytes > source.n_bytes:
            raise broken(source.where, f"it was cut off: the storage {str(key)[:40]!r} ends beyond the file.")
        (n_elements,) = struct.unpack(">q" if swap else "<q", source.read(position, 8))
        if n_elements != declared.n_elements:
            raise broken(
                source.where,
                f"the storage {str(key)[:40]!r} should have {declared.n_elements} elements and has {n_elements}.",
            )
        start = position + 8
        whole = Storage(source, start, n_bytes)
        found[str(key)] = swapped(source, start, n_bytes, number_bytes(declared.dtype)) if swap else whole
        position = start + n_bytes
    if position != source.n_bytes:
        raise broken(source.where, f"{source.n_bytes - position} bytes follow after its last storage.")
    return found
