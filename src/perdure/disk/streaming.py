"""Stored tensors are read block by block, through a little memory that is used over and over."""

from __future__ import annotations

from collections.abc import Iterator

from perdure.disk.digests import Digesting
from perdure.disk.memory import Piece, address_of, allocate
from perdure.disk.reading import ALIGNMENT, refuse_damaged, want
from perdure.disk.stored import StoredFile
from perdure.disk.writing import SEGMENT_BYTES

_MEMORY_BYTES = 4 * SEGMENT_BYTES


class BlockReader:
    """Reads stored tensors in blocks of at most `SEGMENT_BYTES`, verified where their file has checksums.

    A block stays as it is until two blocks of that size, or as many bytes in smaller ones, were read after it; whoever
    wants to keep it copies it.
    """

    def __init__(self, where: str) -> None:
        self._memory = allocate(_MEMORY_BYTES, where)
        self._view = memoryview(self._memory)
        self._address = address_of(self._memory)
        self._next = 0

    def blocks(self, file: StoredFile, name: str, block_bytes: int = SEGMENT_BYTES) -> Iterator[Piece]:
        """Give a tensor's bytes in order.

        Args:
            file: the opened file that holds it.
            name: its name there.
            block_bytes: size of the blocks but the last, at most `SEGMENT_BYTES`.

        Raises:
            DigestError: the bytes are not those that were saved; known when the last block was taken.
            CorruptError: the file was cut meanwhile.
        """
        wanted, expected = want(name, file), file.expected(name)
        digesting = Digesting(expected, full=False) if expected else None
        for start in range(0, wanted.n_bytes, block_bytes):
            n_bytes = min(block_bytes, wanted.n_bytes - start)
            offset = self._room(n_bytes)
            view = self._view[offset : offset + n_bytes]
            file.source.read_into(wanted.position + start, [view])
            if digesting:
                digesting.update(view)
            yield Piece(self._address + offset, n_bytes, self._memory)
        if digesting:
            refuse_damaged(wanted, digesting.fault())

    def _room(self, n_bytes: int) -> int:
        """Return where the next block goes; each begins where tensors of any type may."""
        start = -(-self._next // ALIGNMENT) * ALIGNMENT
        if start + n_bytes > _MEMORY_BYTES:
            start = 0
        self._next = start + n_bytes
        return start
