"""Bytes that a machine of the other byte order wrote, turned round as they are read."""

from __future__ import annotations

import array

from perdure.disk.faults import broken, enough_memory
from perdure.disk.sources import ByteSource
from perdure.foreign.inert import Storage

_TYPE_CODES = {2: "H", 4: "I", 8: "Q"}
_BLOCK_BYTES = 2**20


class SwappedSource(ByteSource):
    """A stretch of another source, with the bytes of every item in reverse.

    Args:
        source: where the bytes are.
        position: where they begin in it.
        n_bytes: how many they are, whole items.
        item_bytes: the size of an item: 2, 4 or 8.
    """

    def __init__(self, source: ByteSource, position: int, n_bytes: int, item_bytes: int) -> None:
        self.where = source.where
        self.n_bytes = n_bytes
        self.parallel = source.parallel
        self._source, self._position, self._item_bytes = source, position, item_bytes

    def read_some(self, offset: int, views: list[memoryview]) -> int:
        item_bytes = self._item_bytes
        start = offset // item_bytes * item_bytes
        stop = min(offset + len(views[0]), self.n_bytes, start + _BLOCK_BYTES)
        if stop <= offset:
            return 0
        with enough_memory(self.where, _BLOCK_BYTES):
            items = array.array(_TYPE_CODES[item_bytes])
            items.frombytes(self._source.read(self._position + start, -(-stop // item_bytes) * item_bytes - start))
            items.byteswap()
            views[0][: stop - offset] = memoryview(items).cast("B")[offset - start : stop - start]
        return stop - offset


def swapped(source: ByteSource, position: int, n_bytes: int, item_bytes: int) -> Storage:
    """Return bytes of a big-endian writer as those of a little-endian one.

    Args:
        source: where the bytes are.
        position: where they begin in it.
        n_bytes: how many they are.
        item_bytes: 1, 2, 4 or 8, the size of one number; of complex ones, of one of its two.

    Raises:
        CorruptError: the bytes are not whole items.
    """
    if n_bytes % item_bytes:
        raise broken(source.where, f"{n_bytes} bytes are not whole numbers of {item_bytes} bytes each.")
    if item_bytes == 1:
        return Storage(source, position, n_bytes)
    return Storage(SwappedSource(source, position, n_bytes, item_bytes), 0, n_bytes)
