"""Numbers that a machine of the other byte order wrote, turned as they are read."""

from __future__ import annotations

from array import array

from perdure.disk.sources import ByteSource, BytesSource
from perdure.foreign.inert import Storage

_CODES = {2: "H", 4: "I", 8: "Q"}


class SwappedSource(ByteSource):
    """The bytes of a storage, with the bytes of each number in the reverse order.

    Args:
        storage: where they are; a number begins at its first byte.
        item_bytes: how many bytes each number has: 2, 4 or 8.
    """

    def __init__(self, storage: Storage, item_bytes: int) -> None:
        self.where = storage.source.where
        self.n_bytes = storage.n_bytes
        self.parallel = storage.source.parallel
        self._storage = storage
        self._item_bytes = item_bytes

    def read_some(self, offset: int, views: list[memoryview]) -> int:
        view = views[0]
        stop = min(offset + len(view), self.n_bytes)
        if offset >= stop:
            return 0
        first = offset - offset % self._item_bytes
        last = min(stop + -stop % self._item_bytes, self.n_bytes)
        whole = self._storage.source.read(self._storage.position + first, last - first)
        numbers = array(_CODES[self._item_bytes], whole)
        numbers.byteswap()
        view[: stop - offset] = memoryview(numbers).cast("B")[offset - first : stop - first]
        return stop - offset

    def close(self) -> None:
        self._storage.source.close()


def swapped(storage: Storage, item_bytes: int) -> Storage:
    """Return a storage with the bytes of each number reversed; nothing is read."""
    if item_bytes == 1:
        return storage
    return Storage(SwappedSource(storage, item_bytes), 0, storage.n_bytes)


def held(octets: bytes | bytearray) -> Storage:
    """Return bytes in memory as a storage."""
    return Storage(BytesSource(octets), 0, len(octets))
