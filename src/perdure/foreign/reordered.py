"""Bytes of a file from a machine of the other byte order, as this library's records want them."""

from __future__ import annotations

from perdure.disk.sources import ByteSource

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
        self._source = source
        self._position = position
        self._order = order

    def read_some(self, offset: int, views: list[memoryview]) -> int:
        period = len(self._order)
        stop = min(offset + len(views[0]), offset + _MAX_READ_BYTES, self.n_bytes)
        if stop <= offset:
            return 0
        start = offset // period * period
        raw = self._source.read(self._position + start, -(-stop // period) * period - start)
        content = bytearray(len(raw))
        for place, origin in enumerate(self._order):
            content[place::period] = raw[origin::period]
        views[0][: stop - offset] = content[offset - start : stop - start]
        return stop - offset
