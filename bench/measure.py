"""Measuring one operation inside a fresh process: time, peak memory, what was in the page cache."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_HUGE = 2 << 20
_PRIME_BYTES = 3 << 30


def memory_bytes() -> dict[str, int]:
    """VmRSS, VmHWM and RssAnon of this process in bytes."""
    found = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key in ("VmRSS", "VmHWM", "RssAnon"):
            found[key] = int(value.split()[0]) * 1024
    return found


def reset_peak() -> None:
    """Set VmHWM to the present VmRSS."""
    Path("/proc/self/clear_refs").write_text("5")


def prime(n_bytes: int = _PRIME_BYTES) -> None:
    """Touch and free memory, so that a virtual machine's host has really given it to us.

    In a guest with free-page reporting the first touch of a page that lay idle costs the host up to 2.3 s
    per GiB, at random, whoever is being measured. Every operation is primed alike.
    """
    memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    for offset in range(0, n_bytes, _HUGE):
        memory[offset] = 1
    memory.close()


def wait_for_quiet(longest_seconds: float = 10, busy_share: float = 0.2) -> bool:
    """Wait until the machine's processors idle, as long as that takes at most; returns whether they do."""
    deadline = time.monotonic() + longest_seconds
    while (busy := _busy_share(0.2)) > busy_share and time.monotonic() < deadline:
        time.sleep(0.5)
    return busy <= busy_share


def _busy_share(seconds: float) -> float:
    """The share of all processors' time that was not idle during a short while."""

    def read() -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    total, idle = read()
    time.sleep(seconds)
    later_total, later_idle = read()
    return 1 - (later_idle - idle) / max(1, later_total - total)


def timed(operation: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that one call took, and what it returned; no garbage collection in between."""
    gc.collect()
    gc.disable()
    start = time.perf_counter()
    result = operation()
    seconds = time.perf_counter() - start
    gc.enable()
    return seconds, result


def warm(path: str) -> None:
    """Read a file once, so that it lies in the page cache."""
    buffer = bytearray(8 << 20)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def cool(path: str) -> None:
    """Drop a file from the page cache, and check with mincore that it is gone."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
    share = cached_share(path)
    if share > 0.01:
        raise RuntimeError(f"{path}: {share:.0%} of the file is still in the page cache")


def cached_share(path: str) -> float:
    """The share of a file's pages that lie in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        *[ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int],
        ctypes.c_long,
    ]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    n_bytes = os.path.getsize(path)
    pages = ctypes.create_string_buffer((n_bytes + mmap.PAGESIZE - 1) // mmap.PAGESIZE)
    fd = os.open(path, os.O_RDONLY)
    try:
        address = libc.mmap(None, n_bytes, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        if libc.mincore(address, n_bytes, pages):
            raise OSError(ctypes.get_errno(), "mincore")
        libc.munmap(address, n_bytes)
    finally:
        os.close(fd)
    return sum(byte & 1 for byte in pages.raw) / len(pages)
