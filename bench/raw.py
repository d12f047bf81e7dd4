"""What the machine itself can do with the same number of bytes: the limits the verbs are held against."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable

BLOCK_BYTES = 8 << 20


def large_page_memory(n_bytes: int) -> mmap.mmap:
    """Fresh private memory, advised to large pages."""
    memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def random_memory(n_bytes: int) -> mmap.mmap:
    """Page-aligned memory full of random bytes (one random MiB, repeated)."""
    memory = large_page_memory(n_bytes)
    block = os.urandom(1 << 20)
    for offset in range(0, n_bytes, len(block)):
        part = min(len(block), n_bytes - offset)
        memory[offset : offset + part] = block[:part]
    return memory


def write_plain(memory: mmap.mmap, path: str) -> None:
    """Preallocate, write through the page cache, fsync."""
    view = memoryview(memory)
    with _opened(path, os.O_CREAT | os.O_WRONLY) as fd:
        os.posix_fallocate(fd, 0, len(view))
        offset = 0
        while offset < len(view):
            offset += os.pwrite(fd, view[offset : offset + BLOCK_BYTES], offset)
        os.fsync(fd)


def write_direct(memory: mmap.mmap, path: str, n_threads: int = 4) -> None:
    """Preallocate, write around the page cache from aligned memory on several threads, fsync."""
    view = memoryview(memory)
    n_bytes = len(view) // 4096 * 4096
    with _opened(path, os.O_CREAT | os.O_WRONLY | os.O_DIRECT) as fd:
        os.posix_fallocate(fd, 0, n_bytes)
        _in_threads(
            n_threads,
            n_bytes,
            lambda offset, end: os.pwrite(fd, view[offset:end], offset),
        )
        os.fsync(fd)


def read_parallel(path: str, n_threads: int = 2, direct: bool = False) -> mmap.mmap:
    """Read a file into large-page memory with `preadv` on several threads, O_DIRECT on request."""
    n_bytes = os.path.getsize(path)
    room = (n_bytes + 4095) // 4096 * 4096
    memory = large_page_memory(room)
    view = memoryview(memory)
    with _opened(path, os.O_RDONLY | (os.O_DIRECT if direct else 0)) as fd:
        _in_threads(n_threads, room, lambda offset, end: os.preadv(fd, [view[offset:end]], offset))
    return memory


def read_plain(path: str) -> bytes:
    """What everyone would write: open the file and read it."""
    with open(path, "rb") as file:
        return file.read()


class _opened:
    """A file descriptor that is closed at the end of the block."""

    def __init__(self, path: str, flags: int) -> None:
        self.fd = os.open(path, flags, 0o644)

    def __enter__(self) -> int:
        return self.fd

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def _in_threads(n_threads: int, n_bytes: int, move: Callable[[int, int], int]) -> None:
    """Call `move(offset, end)` for every block, from `n_threads` threads; short transfers go on."""
    blocks = iter(range(0, n_bytes, BLOCK_BYTES))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                offset = next(blocks, None)
            if offset is None:
                return
            end = min(offset + BLOCK_BYTES, n_bytes)
            while offset < end and (moved := move(offset, end)):
                offset += moved

    threads = [threading.Thread(target=work) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
