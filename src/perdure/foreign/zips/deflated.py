"""Deflated content: inflated when it is first read, kept while there is room, never more than was declared."""

from __future__ import annotations

import mmap
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator

from perdure.disk.faults import broken, enough_memory
from perdure.disk.memory import allocate
from perdure.disk.sources import ByteSource

KEPT_BYTES = 256 * 2**20
_BLOCK_BYTES = 2**20
_HEAD_BYTES = 4096


class Kept:
    """Inflated contents, those that were used last; never more than `KEPT_BYTES`, but for a larger one alone."""

    def __init__(self) -> None:
        self._contents: OrderedDict[int, tuple[mmap.mmap, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: int) -> mmap.mmap | None:
        with self._lock:
            if key not in self._contents:
                return None
            self._contents.move_to_end(key)
            return self._contents[key][0]

    def put(self, key: int, content: mmap.mmap, n_bytes: int) -> None:
        with self._lock:
            self._contents[key] = content, n_bytes
            while len(self._contents) > 1 and sum([size for _, size in self._contents.values()]) > KEPT_BYTES:
                self._contents.popitem(last=False)

    def drop(self, key: int) -> None:
        with self._lock:
            self._contents.pop(key, None)


class DeflatedSource(ByteSource):
    """Content that is deflated in another source.

    Args:
        source: where it is.
        position: where it begins there.
        stored_bytes: how many bytes it takes there.
        n_bytes: how many it has inflated; it is an error if they are not exactly so many.
        where: names it in messages.
        kept: what it shares with others, so that all of them together keep a bounded amount in memory.
    """

    def __init__(
        self, source: ByteSource, position: int, stored_bytes: int, n_bytes: int, where: str, kept: Kept
    ) -> None:
        self.where = where
        self.n_bytes = n_bytes
        self.parallel = source.parallel
        self._source, self._position, self._stored_bytes = source, position, stored_bytes
        self._kept = kept
        self._lock = threading.Lock()

    def blocks(self, block_bytes: int = _BLOCK_BYTES) -> Iterator[bytes]:
        """Inflate it from its beginning, block by block.

        Raises:
            CorruptError: it is damaged, or has another size than declared, or something behind it.
        """
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        n_bytes = begin = 0
        pending = b""
        while not inflater.eof:
            if not pending:
                pending = self._source.read(self._position + begin, min(_BLOCK_BYTES, self._stored_bytes - begin))
                begin += len(pending)
            at_end = not pending
            try:
                block = inflater.decompress(pending, min(block_bytes, self.n_bytes - n_bytes + 1))
            except zlib.error as error:
                raise broken(self.where, f"its compressed content is damaged ({error}).") from None
            if at_end and not block and not inflater.eof:
                raise broken(self.where, "its compressed content is cut off.")
            pending = inflater.unconsumed_tail
            n_bytes += len(block)
            if n_bytes > self.n_bytes:
                raise broken(self.where, f"more than the {self.n_bytes} bytes come out of it that it should have.")
            if block:
                yield block
        if n_bytes != self.n_bytes:
            raise broken(self.where, f"{n_bytes} bytes come out of it where {self.n_bytes} were expected.")
        if inflater.unused_data or begin < self._stored_bytes:
            raise broken(self.where, "something follows its compressed content.")

    def read_some(self, offset: int, views: list[memoryview]) -> int:
        n_bytes = min(len(views[0]), self.n_bytes - offset)
        if n_bytes <= 0:
            return 0
        content = self._kept.get(self._position)
        if content is None and offset + n_bytes <= _HEAD_BYTES < self.n_bytes:
            head = b""
            for block in self.blocks(_HEAD_BYTES):
                head += block
                if len(head) >= offset + n_bytes:
                    break
            views[0][:n_bytes] = head[offset : offset + n_bytes]
            return n_bytes
        content = content or self._inflate()
        views[0][:n_bytes] = memoryview(content)[offset : offset + n_bytes]
        return n_bytes

    def _inflate(self) -> mmap.mmap:
        with self._lock, enough_memory(self.where, self.n_bytes):
            content = self._kept.get(self._position)
            if content is None:
                content = allocate(self.n_bytes, self.where)
                place = 0
                for block in self.blocks():
                    content[place : place + len(block)] = block
                    place += len(block)
                self._kept.put(self._position, content, self.n_bytes)
            return content

    def close(self) -> None:
        self._kept.drop(self._position)
