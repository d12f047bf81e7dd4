"""What this system can do: each fast path asks here, and works without when the answer is no.

Tests switch a capability off by setting it to False in this module.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import sys

VECTOR_READS = hasattr(os, "preadv")
VECTOR_WRITES = hasattr(os, "pwritev")
DIRECT_IO = hasattr(os, "O_DIRECT")
PREALLOCATION = hasattr(os, "posix_fallocate")
HUGE_PAGES = hasattr(mmap, "MADV_HUGEPAGE")
FILE_LOCKS = os.name == "posix"
FOLDER_SYNC = os.name == "posix"
RESIDENCY = hasattr(os, "RWF_NOWAIT") and VECTOR_READS
WRITEBACK_CONTROL = sys.platform == "linux"

NOT_SUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}
"""What a system answers that does not know a call, as opposed to one that refuses it."""

_NETWORK = ("nfs", "cifs", "smb", "fuse", "lustre", "beegfs", "gpfs", "ceph", "gluster", "9p", "afs", "ocfs2", "gfs2")
_LOCAL_FUSE = ("fuseblk", "fuse.ntfs", "fuse.fuse-overlayfs", "fusectl")


def n_processors() -> int:
    """Return how many processors this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_SYNC_FILE_RANGE_WRITE = 2


def start_writeback(descriptor: int, offset: int, n_bytes: int) -> None:
    """Ask the system to begin writing a stretch of a file to disk now, so that the fsync at the end finds little left."""
    if WRITEBACK_CONTROL:
        libc = ctypes.CDLL(None)
        arguments = (ctypes.c_int(descriptor), ctypes.c_int64(offset), ctypes.c_int64(n_bytes))
        libc.sync_file_range(*arguments, ctypes.c_uint(_SYNC_FILE_RANGE_WRITE))


def on_network(descriptor: int) -> bool:
    """Tell whether an open file lies on a network file system, where mapping is slow; False where that is unknown."""
    try:
        device = os.fstat(descriptor).st_dev
        return _is_network(f"{os.major(device)}:{os.minor(device)}")
    except (OSError, AttributeError):
        return False


@functools.cache
def _is_network(device: str) -> bool:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        kinds = _kinds_of(mounts.read(), device)
    return any(kind.startswith(_NETWORK) and kind not in _LOCAL_FUSE for kind in kinds)


def _kinds_of(mounts: str, device: str) -> list[str]:
    """Return the file system types of a device's lines in the text of /proc/self/mountinfo."""
    kinds: list[str] = []
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) > 6 and fields[2] == device and "-" in fields[6:]:
            kinds.append(fields[fields.index("-", 6) + 1])
    return kinds
