"""Numbers that a machine of the other byte order wrote, turned round as they are read."""

from __future__ import annotations

from perdure.disk.faults import broken, enough_memory
from perdure.disk.sources import ByteSource, BytesSource
from perdure.foreign.inert import Storage

_MAX_READ_BYTES = 2**20


class ReorderedSource(ByteSource):
    """A part of another source, in which the bytes of each period stand in another order.

    Args:
        source: the file.
        position: where the part begins in it.
        n_bytes: how long the part is; whole periods.
        order: for each byte of a period, where in the file's period it stands: `(1, 0)` swaps the bytes of 16-bit numbers.
    """

    def __init__(self, source: ByteSource, position: int, n_bytes: int, order: tuple[int, ...]) -> None:
        self.where = source.where
        self.n_bytes = n_bytes
        self.parallel = source.parallel
        self._source = source
        self._position = position
        self._order = order

    def read_some(self, offset: int, views: list[memoryview]) -> int:
        period = len(self._order)
        stop = min(offset + len(views[0]), offset + _MAX_READ_BYTES, self.n_bytes)
        if stop <= offset:
            return 0
        start = offset // period * period
        with enough_memory(self.where, _MAX_READ_BYTES):
            raw = self._source.read(self._position + start, -(-stop // period) * period - start)
            content = bytearray(len(raw))
        for place, origin in enumerate(self._order):
            content[place::period] = raw[origin::period]
        views[0][: stop - offset] = content[offset - start : stop - start]
        return stop - offset


def swapped(source: ByteSource, position: int, n_bytes: int, item_bytes: int) -> Storage:
    """Return bytes of a big-endian writer as those of a little-endian one; nothing is read.

    Args:
        source: where the bytes are.
        position: where they begin in it.
        n_bytes: how many they are.
        item_bytes: the size of one number; of complex ones, of one of its two.

    Raises:
        CorruptError: the bytes are not whole numbers.
    """
    if n_bytes % item_bytes:
        raise broken(source.where, f"{n_bytes} bytes are not whole numbers of {item_bytes} bytes each.")
    if item_bytes == 1:
        return Storage(source, position, n_bytes)
    return Storage(ReorderedSource(source, position, n_bytes, tuple(reversed(range(item_bytes)))), 0, n_bytes)


def held(octets: bytes | bytearray) -> Storage:
    """Return bytes in memory as a storage."""
    return Storage(BytesSource(octets), 0, len(octets))
