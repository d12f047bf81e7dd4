"""Plain memory: pieces of other objects' memory by address, and fresh memory in large pages."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from typing import Any

import msgspec

from perdure.disk import capabilities
from perdure.disk.faults import out_of_memory

PAGE_BYTES = 4096
HUGE_PAGE_BYTES = 2 * 2**20
_WORTH_A_PAGE_BYTES = HUGE_PAGE_BYTES // 4

_from_memory = ctypes.pythonapi.PyMemoryView_FromMemory
_from_memory.restype = ctypes.py_object
_from_memory.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_READ_ONLY, _WRITABLE = 0x100, 0x200


class Piece(msgspec.Struct, frozen=True, gc=False):
    """Some bytes in memory that `owner` keeps alive."""

    address: int
    n_bytes: int
    owner: Any

    def view(self, *, writable: bool = False) -> memoryview:
        """Return the bytes as a view; it is valid while the owner lives."""
        return _from_memory(self.address, self.n_bytes, _WRITABLE if writable else _READ_ONLY)

    def part(self, start: int, stop: int) -> Piece:
        """Return the bytes `[start, stop)` of this piece."""
        return Piece(self.address + start, stop - start, self.owner)


def allocate(n_bytes: int, where: str = "", doing: str = "reading") -> mmap.mmap:
    """Return fresh private memory that begins on a page, in large pages where the system has them.

    Only whole large pages are asked for, so that no more becomes resident than is used; but what fills a quarter of one
    large page or more gets that one.

    Raises:
        StorageError: there is not so much memory.
    """
    room = -(-n_bytes // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES if n_bytes >= _WORTH_A_PAGE_BYTES else n_bytes
    try:
        if not hasattr(mmap, "MAP_PRIVATE"):
            return mmap.mmap(-1, n_bytes)
        memory = mmap.mmap(-1, room, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError, MemoryError) as error:
        raise out_of_memory(doing, where, n_bytes) from error
    whole = room if room == HUGE_PAGE_BYTES else n_bytes // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
    if whole and capabilities.HUGE_PAGES:
        with contextlib.suppress(OSError):  # a kernel without large pages
            memory.madvise(mmap.MADV_HUGEPAGE, 0, whole)
    return memory


def address_of(memory: mmap.mmap | memoryview) -> int:
    """Return where writable memory lies."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def pieces_of(content: bytes) -> list[Piece]:
    """Return bytes as the pieces of an item: one, or none where there is nothing."""
    buffer = bytearray(content)
    return [Piece(address_of(memoryview(buffer)), len(buffer), buffer)] if buffer else []


def copy(target: int, piece: Piece) -> None:
    """Copy a piece to an address; other threads run meanwhile."""
    ctypes.memmove(target, piece.address, piece.n_bytes)
